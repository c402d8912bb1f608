"""One rank that trains on fixed global batches, as the test starts it: shared_sequences.py OUT PEERS.

Writes losses and gradient norms of a few steps at each ZeRO stage, on packed rows. PEERS ranks share each of them.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.world import World, world_from_env
from pipeline.config import ModelConfig, OptimizerConfig, TrainConfig, ZeroConfig
from pipeline.data.order import rank_positions
from pipeline.model.decoder import outline
from pipeline.train.collectives import averaged
from pipeline.train.engine import join_world, set_learning_rate, start_engine, train_step

VOCAB, END_OF_TEXT, T, RATE = 97, 0, 32, 1e-2
SIZES = (8, 8, 16, 8, 16)
"""Of the steps' global batches, in rows."""
MODEL = ModelConfig(
    layers=3, width=32, heads=4, kv_heads=2, qk_norm=True, z_loss=1e-3, recompute="attention", loss_chunk_size=7
)
WAYS: dict[str, dict[str, Any]] = {
    **{f"fp32, stage {stage}": {"stage": stage} for stage in range(4)},
    "fp32, stage 3, second copy": {"stage": 3, "zero_hpz_partition_size": 2},
    **{f"bf16, stage {stage}": {"stage": stage} for stage in (1, 3)},
}


def train_config(way: str, peers: int, ranks: int) -> TrainConfig:
    zero = WAYS[way] if ranks > 1 else {"stage": WAYS[way]["stage"]}  # a single rank has no one to hold a copy with
    return TrainConfig(
        tokens=1,
        global_batch_size=max(SIZES),
        micro_batch_size=2,
        sequence_parallel=peers,
        optimizer=OptimizerConfig(lr=RATE),
        zero=ZeroConfig(**zero),
        precision="fp32" if way.startswith("fp32") else "bf16",
    )


def rows(step: int) -> NDArray[np.int64]:
    """A step's global batch, of documents of some ten tokens; the last row ends in padding."""
    generator = np.random.default_rng(step)
    tokens = generator.integers(1, VOCAB, (SIZES[step], T))
    tokens[generator.random(tokens.shape) < 0.1] = END_OF_TEXT
    tokens[-1, T // 2 - 3 :] = END_OF_TEXT
    return tokens


def figures(train: TrainConfig, world: World) -> list[list[float]]:
    whole = {"stage3_param_persistence_threshold": 0}  # or stage 3 would leave all of so small a model whole
    engine = start_engine(outline(MODEL, VOCAB, END_OF_TEXT), train, world, zero=whole)
    data_ranks, data_rank = train.data_ranks(world.size), train.data_rank(world.rank)
    found = []
    for step, size in enumerate(SIZES):
        set_learning_rate(engine, RATE)
        own = rank_positions(range(size), data_rank, data_ranks, train.micro_batch_size)
        losses, norm, _ = train_step(engine, rows(step)[own])
        found.append([*averaged(losses, world), norm])
    return found


def main(out: str, peers: int) -> None:
    world = world_from_env(os.environ)
    join_world(world)
    found = {way: figures(train_config(way, peers, world.size), world) for way in WAYS}
    if world.is_main:
        Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
