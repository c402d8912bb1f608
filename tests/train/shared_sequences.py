"""One rank that trains on the rows of a fixed global batch, as the test starts it: shared_sequences.py OUT PEERS.

Writes losses and gradient norms of a few steps at each ZeRO stage, on packed rows. PEERS ranks share each of them.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.world import World, world_from_env
from pipeline.config import ModelConfig, OptimizerConfig, TrainConfig, ZeroConfig
from pipeline.data.order import rank_positions
from pipeline.model.decoder import build
from pipeline.train.engine import averaged, join_world, set_learning_rate, start_engine, train_step

VOCAB, END_OF_TEXT, T, STEPS, RATE = 97, 0, 32, 5, 1e-2
MODEL = ModelConfig(
    layers=3, width=32, heads=4, kv_heads=2, qk_norm=True, z_loss=1e-3, recompute="attention", loss_chunk_size=7
)
WAYS = [*((stage, "fp32") for stage in range(4)), (1, "bf16"), (3, "bf16")]


def train_config(stage: int, precision: str, peers: int) -> TrainConfig:
    return TrainConfig(
        tokens=1,
        global_batch_size=8,
        micro_batch_size=2,
        sequence_parallel=peers,
        optimizer=OptimizerConfig(lr=RATE),
        zero=ZeroConfig(stage=stage),  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
    )


def rows(step: int) -> NDArray[np.int64]:
    """A step's global batch, of documents of some ten tokens; the last row ends in padding."""
    generator = np.random.default_rng(step)
    tokens = generator.integers(1, VOCAB, (8, T))
    tokens[generator.random((8, T)) < 0.1] = END_OF_TEXT
    tokens[-1, T // 2 - 3 :] = END_OF_TEXT
    return tokens


def figures(train: TrainConfig, world: World) -> list[list[float]]:
    whole = {"stage3_param_persistence_threshold": 0}  # or stage 3 would leave all of so small a model whole
    engine = start_engine(build(MODEL, VOCAB, END_OF_TEXT, seed=0), train, world, zero=whole)
    data_ranks, data_rank = train.data_ranks(world.size), train.data_rank(world.rank)
    found = []
    for step in range(STEPS):
        set_learning_rate(engine, RATE)
        own = rank_positions(range(train.global_batch_size), data_rank, data_ranks, train.micro_batch_size)
        losses, norm, _ = train_step(engine, rows(step)[own])
        found.append([*averaged(losses, world), norm])
    return found


def main(out: str, peers: int) -> None:
    world = world_from_env(os.environ)
    join_world(world)
    found = {
        f"{precision}, stage {stage}": figures(train_config(stage, precision, peers), world)
        for stage, precision in WAYS
    }
    if world.is_main:
        Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
