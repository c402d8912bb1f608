"""One rank of two at ZeRO stage 3, as the test starts it: stage3_options.py OUT.

Writes the losses and gradient norms of a few steps for each way to compute the same model, and how many graphs and
breaks were traced. Every parameter is sharded, however small, so that weights are whole only while their module is
called. What is compiled is traced, forward and backward, but run without a compiler, which would take minutes.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.world import world_from_env
from pipeline.config import ModelConfig, OptimizerConfig, TrainConfig, ZeroConfig
from pipeline.model.decoder import outline
from pipeline.train import engine as engines

SHAPE = ModelConfig(layers=3, width=32, heads=4, kv_heads=2, qk_norm=True, z_loss=1e-3, base_width=16)
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunks": {"loss_chunk_size": 7},
    "blocks again": {"recompute": "block", "recompute_every": 2},
    "attention again, chunks": {"recompute": "attention", "loss_chunk_size": 7},
    "tied": {"tie_embeddings": True},
    "tied, chunks": {"tie_embeddings": True, "loss_chunk_size": 7},
    "compiled": {"compile": "block"},
    "compiled, blocks again": {"compile": "block", "recompute": "block", "recompute_every": 2},
    "compiled, attention again, chunks": {"compile": "block", "recompute": "attention", "loss_chunk_size": 16},
}
SHARD_ALL = {
    "stage3_param_persistence_threshold": 0,
    # What is used again soon would be kept: all of a small model, from forward to backward.
    "stage3_max_reuse_distance": 0,
    "stage3_max_live_parameters": 0,
    "stage3_prefetch_bucket_size": 0,
}
TRAIN = TrainConfig(
    tokens=1,
    global_batch_size=8,
    micro_batch_size=2,
    optimizer=OptimizerConfig(lr=1e-2),
    zero=ZeroConfig(stage=3),
    precision="fp32",
)


def steps(model: ModelConfig) -> list[list[float]]:
    engine = engines.start_engine(outline(model, 97, 0), TRAIN, world_from_env(os.environ))
    figures = []
    for seed in range(3):
        engines.set_learning_rate(engine, 1e-2)
        batch = np.random.default_rng(seed).integers(0, 97, (2, 2, 32))
        losses, norm, _ = engines.train_step(engine, batch)
        figures.append([*losses.tolist(), norm])
    assert all(parameter.numel() == 0 for parameter in engine.module.parameters()), "all weights are sharded again"
    return figures


def main(out: str) -> None:
    world = world_from_env(os.environ)
    engines.join_world(world)
    settings = engines.zero_settings

    def sharding_all(train: TrainConfig, num_parameters: int) -> dict[str, Any]:
        return settings(train, num_parameters) | SHARD_ALL

    engines.zero_settings = sharding_all
    compiler = torch.compile
    torch.compile = lambda function, **how: compiler(function, **how | {"backend": "aot_eager"})  # type: ignore[misc]
    figures, traced = {}, {}
    for way, options in WAYS.items():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        figures[way] = steps(replace(SHAPE, **options))
        counted = torch._dynamo.utils.counters
        traced[way] = [counted["stats"]["unique_graphs"], sum(counted["graph_break"].values())]
    if world.is_main:
        Path(out).write_text(json.dumps({"figures": figures, "traced": traced}))


if __name__ == "__main__":
    main(sys.argv[1])
