"""One rank of two that trains on batches of changing size, as the test starts it: growing_batches.py OUT.

Writes losses and gradient norms of each step, at every ZeRO stage and with what may be set beside it, and of the same
steps by torch alone on one rank.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.world import World, world_from_env
from pipeline.config import ModelConfig, OptimizerConfig, TrainConfig, ZeroConfig
from pipeline.model.decoder import build, outline
from pipeline.train.collectives import averaged
from pipeline.train.engine import join_world, set_learning_rate, start_engine, train_step
from pipeline.train.optim import optimizer_of

ACCUMULATIONS = (1, 1, 1, 3, 3, 4, 2, 1, 4)
"""Three, then nine micro-batches before the first step of four: whoever counts on from the first finds it elsewhere."""
MODEL = ModelConfig(layers=2, width=32, heads=4, kv_heads=2)
RATE, RANKS = 1e-2, 2


WAYS = {
    **{f"stage {stage}": {"stage": stage} for stage in range(4)},
    **{f"stage {stage}, optimizer offloaded": {"stage": stage, "offload_optimizer": "cpu"} for stage in (1, 2, 3)},
    "stage 3, all offloaded": {"stage": 3, "offload_optimizer": "cpu", "offload_param": "cpu"},
    "stage 3, parameters offloaded": {"stage": 3, "offload_param": "cpu"},
    "stage 3, second copy": {"stage": 3, "zero_hpz_partition_size": 2},
}


def train_config(zero: dict[str, Any]) -> TrainConfig:
    return TrainConfig(
        tokens=1,
        global_batch_size=16,
        micro_batch_size=2,
        optimizer=OptimizerConfig(lr=RATE),
        zero=ZeroConfig(**zero),
        precision="fp32",
    )


def micro_batches(step: int, rank: int) -> np.ndarray:
    return np.random.default_rng([step, rank]).integers(0, 97, (ACCUMULATIONS[step], 2, 32))


def by_deepspeed(zero: dict[str, Any], world: World) -> list[list[float]]:
    engine, figures = start_engine(outline(MODEL, 97, 0), train_config(zero), world), []
    of_stage_3 = zero["stage"] == 3
    offloads = getattr(engine.optimizer, "offload_optimizer" if of_stage_3 else "cpu_offload", False)
    assert offloads == ("offload_optimizer" in zero), "else this would show nothing"
    assert not of_stage_3 or engine.optimizer.offload_param == ("offload_param" in zero)
    assert not of_stage_3 or engine.optimizer.zero_hpz_partition_size == zero.get("zero_hpz_partition_size", 1)
    for step in range(len(ACCUMULATIONS)):
        set_learning_rate(engine, RATE)
        losses, norm, _ = train_step(engine, micro_batches(step, world.rank))
        figures.append([*averaged(losses, world), norm])
    assert engine.global_steps == len(ACCUMULATIONS)
    return figures


def by_torch() -> list[list[float]]:
    model, figures = build(MODEL, 97, 0, seed=0), []
    optimizer: Any = optimizer_of(model, train_config({}).optimizer)
    for group in optimizer.param_groups:
        group["lr"] = RATE
    for step in range(len(ACCUMULATIONS)):
        batch = np.concatenate([micro_batches(step, rank) for rank in range(RANKS)])
        losses = [model(torch.from_numpy(tokens), loss=True) for tokens in batch]
        torch.stack([one.total for one in losses]).mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean = torch.stack([one.cross_entropy.detach() for one in losses]).mean()
        figures.append([float(mean), 0.0, float(norm)])
    return figures


def main(out: str) -> None:
    world = world_from_env(os.environ)
    join_world(world)
    figures = {name: by_deepspeed(zero, world) for name, zero in WAYS.items()}
    if world.is_main:
        Path(out).write_text(json.dumps({**figures, "torch": by_torch()}))


if __name__ == "__main__":
    main(sys.argv[1])
