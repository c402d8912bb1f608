"""How long training stands still for a checkpoint: written beside training, against waiting for the disk.

    python -m benchmarks.checkpoint [--stage 3] [--optimizer muon] [--folder /tmp] [--width 768] [--layers 8] [--json]

Ratio: `stall_vs_sync`, the time of a whole save over the time for which an asynchronous one holds training up, both as
the saver tells the journal: for an asynchronous one that is the call itself, and what the optimizer of the next step
waits for the copy of the state to be whole. One process and one rank in fp32, at ZeRO stage 1 with AdamW unless told
otherwise, whose state is 16 bytes a parameter; the same bytes are copied, hashed, written and synced on both sides. A
step of training follows each save, and a write is over before the next begins. On a CPU the writing thread takes a core
from that step, which a GPU would not notice: `step_beside` against `step_alone`.
"""

import shutil
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import alternate, median_ratio, parser, report
from cluster.world import world_from_env
from pipeline.config import ModelConfig, OptimizerConfig, TrainConfig, ZeroConfig
from pipeline.data.position import Position
from pipeline.model.decoder import outline
from pipeline.train.checkpoint import Checkpoint
from pipeline.train.engine import join_world, set_learning_rate, start_engine, train_step
from pipeline.train.optim import OPTIMIZERS
from pipeline.train.saving import Saver

VOCAB_SIZE, LENGTH, ROUNDS = 8192, 256, 3


def new_engine(model: ModelConfig, stage: Any, optimizer: Any) -> Any:
    world = world_from_env({})
    join_world(world)
    train = TrainConfig(
        tokens=1,
        global_batch_size=1,
        micro_batch_size=1,
        optimizer=OptimizerConfig(kind=optimizer, lr=1e-3),
        zero=ZeroConfig(stage=stage),
        precision="fp32",
    )
    engine = start_engine(outline(model, VOCAB_SIZE, 0), train, world)
    set_learning_rate(engine, 1e-3)
    return engine


def take_step(engine: Any) -> None:
    train_step(engine, np.random.default_rng(0).integers(1, VOCAB_SIZE, (1, 1, LENGTH)))


def record(model: ModelConfig, stage: Any, step: int) -> Checkpoint:
    return Checkpoint(
        run="benchmark",
        step=step,
        tokens=0,
        position=Position(manifest_digest="", order_version=1, seed=0, next_sequence=0),
        config_digest="",
        world_size=1,
        zero_stage=stage,
        precision="fp32",
        model=model,
        vocab_size=VOCAB_SIZE,
        end_of_text_id=0,
        sequence_length=LENGTH,
        tokenizer_sha256="",
        corpus="",
        files={},
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, help="where to write; a folder on the disk to be measured")
    options.add_argument("--stage", type=int, choices=range(4), default=1, help="of ZeRO")
    options.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw")
    options.add_argument("--width", type=int, default=768)
    options.add_argument("--layers", type=int, default=8)
    chosen = options.parse_args()
    model = ModelConfig(layers=chosen.layers, width=chosen.width, heads=chosen.width // 64)
    engine, steps, told, step_s = new_engine(model, chosen.stage, chosen.optimizer), count(), [], []
    take_step(engine)  # so that the optimizer has its moments
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)

        def tell(kind: str, **figures: Any) -> None:
            told.append(figures)
            shutil.rmtree(folder / f"step-{figures['step']:08d}")

        synchronous, asynchronous = (
            Saver(engine, folder, world_from_env({}), tell, asynchronous=beside) for beside in (False, True)
        )

        def save(saver: Saver) -> None:
            saver.save(record(model, chosen.stage, next(steps)))
            began = time.perf_counter()
            take_step(engine)
            step_s.append(time.perf_counter() - began)
            saver.wait()

        alternate({"sync": lambda: save(synchronous), "async": lambda: save(asynchronous)}, rounds=ROUNDS)
    counted = told[2:]  # the first round warms up
    seconds = {
        "sync": [figures["save_s"] for figures in counted[::2]],
        "stall": [figures["stall_s"] for figures in counted[1::2]],
        "async": [figures["save_s"] for figures in counted[1::2]],
        "step_alone": step_s[2::2],
        "step_beside": step_s[3::2],
    }
    megabytes = round(told[-1]["size_bytes"] / 1e6)
    cut = [parameter.ds_tensor for parameter in engine.module.parameters()] if chosen.stage == 3 else []
    report(
        "checkpoint",
        {"stall_vs_sync": median_ratio(seconds["sync"], seconds["stall"])},
        {"stall_vs_sync": 20},
        as_json=chosen.json,
        zero_stage=chosen.stage,
        optimizer=chosen.optimizer,
        checkpoint_megabytes=megabytes,
        host_megabytes=megabytes + round(sum(part.nbytes for part in cut) / 1e6),
        seconds={side: [round(time, 3) for time in times] for side, times in seconds.items()},
    )


if __name__ == "__main__":
    main()
