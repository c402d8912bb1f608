"""One rank that counts how often a step waits for its device, as the test starts it: waits.py OUT.

Writes for each ZeRO stage and precision, for steps of two and of four micro-batches, how often DeepSpeed synchronised
and how often a number was read off a tensor: on a GPU the host stands still in both. And how many seconds its groups would wait for others.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed import distributed_c10d
from torch.utils._python_dispatch import TorchDispatchMode

from cluster.world import world_from_env
from pipeline.config import ModelConfig, OptimizerConfig, TrainConfig, ZeroConfig
from pipeline.model import decoder
from pipeline.train.engine import join_world, start_engine, train_step

MODEL = ModelConfig(layers=2, width=32, heads=4, loss_chunk_size=20)
MICRO_BATCHES = (2, 4, 2, 4)
"""The first two steps are a start: optimizer states are made, and DeepSpeed's timer lets two steps pass."""


class Counting(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.called: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called[str(function)] += 1
        return function(*args, **kwargs or {})


def waits(train: TrainConfig) -> list[dict[str, int]]:
    """Of each step."""
    from deepspeed.accelerator import get_accelerator

    engine, found = start_engine(decoder.outline(MODEL, 97, 0), train, world_from_env(os.environ)), []
    synchronised: Counter[str] = Counter()
    type(get_accelerator()).synchronize = lambda *_: synchronised.update(["synchronize"])  # type: ignore[method-assign]
    for step, count in enumerate(MICRO_BATCHES):
        synchronised.clear()
        with Counting() as counting:
            train_step(engine, np.random.default_rng(step).integers(0, 97, (count, 2, 32)))
        found.append({"read": counting.called["aten._local_scalar_dense.default"], **synchronised})
    return found


def main(out: str) -> None:
    join_world(world_from_env(os.environ))
    decoder.mask_of = lambda *_: None  # type: ignore[assignment]  # a CPU looks at the documents, and only a CPU
    figures = {}
    for stage in (0, 1, 2, 3):
        for precision in ("fp32", "bf16"):
            train = TrainConfig(
                tokens=1,
                global_batch_size=4,
                micro_batch_size=2,
                optimizer=OptimizerConfig(lr=1e-3),
                zero=ZeroConfig(stage=stage),
                precision=precision,  # type: ignore[arg-type]
            )
            figures[f"stage {stage}, {precision}"] = waits(train)
    groups = [group._get_backend(torch.device("cpu")) for group in distributed_c10d._world.pg_map]
    patience = [group.options._timeout.total_seconds() for group in groups]
    Path(out).write_text(json.dumps({"figures": figures, "patience": patience}))


if __name__ == "__main__":
    main(*sys.argv[1:])
