"""What rank 0 of a DeepSpeed engine holds, in bytes, as the tests start it: engine_memory.py STAGE PRECISION OPTIMIZER
OFFLOAD REDUCE_DTYPE REDUCED_AT_ONCE. The last in elements, 0 for DeepSpeed's own.

`resting`: all live tensors between two steps. `added`: the most that a step adds; its activations are tiny.
"""

import gc
import json
import os
import sys
import warnings
from dataclasses import asdict
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from cluster.world import world_from_env
from pipeline.config import ModelConfig, OptimizerConfig, TrainConfig, ZeroConfig
from pipeline.model.decoder import outline
from pipeline.plan.memory import Stage
from pipeline.train.engine import join_world, start_engine, train_step

MODEL = ModelConfig(layers=2, width=512, heads=4, kv_heads=2)
VOCAB_SIZE = 2000


def main(stage: str, precision: Any, kind: Any, offload: Any, reduce_dtype: Any, reduced_at_once: str) -> None:
    world = world_from_env(os.environ)
    train = TrainConfig(
        tokens=1,
        global_batch_size=2 * world.size,
        micro_batch_size=1,
        optimizer=OptimizerConfig(lr=1e-3, kind=kind, gradient_clipping=float(kind == "adamw")),
        zero=ZeroConfig(stage=cast(Stage, int(stage)), offload_optimizer=offload, reduce_dtype=reduce_dtype),
        precision=precision,
    )
    join_world(world)
    model = outline(MODEL, VOCAB_SIZE, 0)
    engine = start_engine(model, train, world)
    if int(reduced_at_once):
        engine.allreduce_gradients = partial(engine.allreduce_gradients, int(reduced_at_once))
    batch = np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, 1, 8))
    train_step(engine, batch)
    resting = sum(live_tensors().values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train_step(engine, batch)
    live = peak = 0
    events: list[Any] = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    if world.is_main:
        print(json.dumps({"model": asdict(MODEL), "vocab_size": VOCAB_SIZE, "resting": resting, "added": peak}))
        sys.stdout.flush()


def live_tensors() -> dict[int, int]:
    """Address -> bytes of every storage that Python can reach."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at some objects warns that they are deprecated
        tensors = [item for item in gc.get_objects() if isinstance(item, torch.Tensor) and item.device.type == "cpu"]
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}


if __name__ == "__main__":
    main(*sys.argv[1:])
