"""One rank that carries a training state from checkpoint to checkpoint through engines of several ZeRO stages, as the
elastic tests start it: torchrun ... reload_small.py CONFIG FROM TO STAGE ...

FROM is a checkpoint's folder, or `train` to begin with three steps of training. Each engine saves at once what it has
loaded, as step 0, 1, ... in the folder TO, and then trains a step that nobody saves, so that a state that only looks
right is found out by DeepSpeed. `old` instead of a stage saves as headrace 0.1.0 did, at the stage before it.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from cluster.world import World, world_from_env
from data_prep.files import write_record
from pipeline.config import RunConfig, load_config
from pipeline.model.decoder import outline
from pipeline.train.checkpoint import ENGINE_TAG, RECORD_NAME, read_checkpoint, sealed
from pipeline.train.engine import join_world, set_learning_rate, start_engine, train_step
from pipeline.train.saving import Saver, load
from tests.train.small_runs import RECORD


def engine_of(config: RunConfig, world: World, stage: int) -> Any:
    # Other first weights than any that were saved: what a load leaves out, shows.
    train = replace(config.train, zero=replace(config.train.zero, stage=stage), seed=stage + 100)
    return start_engine(outline(config.model, 257, 256), train, world)


def take_steps(engine: Any, config: RunConfig, world: World, first: int, count: int) -> None:
    train = config.train
    accumulation = train.accumulation(world.size)
    for step in range(first, first + count):
        set_learning_rate(engine, 1e-2)
        generator = np.random.default_rng([step, train.data_rank(world.rank)])
        train_step(engine, generator.integers(0, 256, (accumulation, train.micro_batch_size, 64)))


def save_as_old(engine: Any, path: Path, world: World) -> None:
    """Turns a new checkpoint into one of the old format: DeepSpeed's own files in place of the pieces."""
    engine.global_steps = read_checkpoint(path).step
    engine.save_checkpoint(str(path), tag=ENGINE_TAG, save_latest=False)
    dist.barrier()
    if world.is_main:
        checkpoint = read_checkpoint(path)
        for name in [name for name in checkpoint.files if name.startswith("state-")]:
            (path / name).unlink()
        names = [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file() and file.name != RECORD_NAME]
        some = next(iter(checkpoint.files.values()))
        write_record(path / RECORD_NAME, sealed(replace(checkpoint, files=dict.fromkeys(names, some))))
    dist.barrier()


def main(config_path: str, begin: str, out: str, *stages: str) -> None:
    config, world, folder = load_config(Path(config_path)), world_from_env(os.environ), Path(out)
    join_world(world)
    path = Path(begin)
    for at, word in enumerate(stages):
        stage = int(stages[at - 1] if word == "old" else word)
        engine = engine_of(config, world, stage)
        if begin == "train" and at == 0:
            take_steps(engine, config, world, 0, 3)
        else:
            checkpoint = read_checkpoint(path)
            load(engine, path, checkpoint, world)
            assert engine.global_steps == checkpoint.step
        with Saver(engine, folder, world, lambda kind, **figures: None, asynchronous=True) as saver:
            saver.save(
                replace(
                    RECORD,
                    step=at,
                    world_size=world.size,
                    zero_stage=stage,
                    precision=config.train.precision,
                    model=config.model,
                )
            )
            if word != "old":
                take_steps(engine, config, world, 3, 1)  # beside the write: it must not reach what is written
        path = folder / f"step-{at:08d}"
        if word == "old":
            save_as_old(engine, path, world)


if __name__ == "__main__":
    main(*sys.argv[1:])
