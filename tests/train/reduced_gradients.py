"""One rank of several, as the test starts it: reduced_gradients.py OUT [WAY…].

For each way to train in bf16: how far is the gradient that the optimizer is fed from the mean of the very bf16
gradients that the micro-batches have? Norm of the difference over all that the ranks hold, as a share of the mean's.
The mean is made in fp64, by torch alone; what an optimizer was fed is read off its first moment, as in
`pipeline/doctor/state.py`.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from cluster.world import World, world_from_env
from pipeline.config import ModelConfig, OptimizerConfig, TrainConfig, ZeroConfig
from pipeline.model.decoder import build, outline
from pipeline.train.elastic import MOMENTUM, state_tensors
from pipeline.train.engine import join_world, start_engine, train_step
from pipeline.train.optim import muon_class

SHAPE = ModelConfig(layers=2, width=32, heads=4, kv_heads=2, qk_norm=True)
VOCAB, SEED = 97, 3
STAGES = (0, 1, 2, 3)
WAYS: dict[str, dict[str, Any]] = {
    **{f"stage {stage}": {"stage": stage} for stage in STAGES},
    **{f"muon, stage {stage}": {"stage": stage, "kind": "muon"} for stage in STAGES},
    **{f"offloaded, stage {stage}": {"stage": stage, "offload_optimizer": "cpu"} for stage in (1, 2, 3)},
    "all offloaded": {"stage": 3, "offload_optimizer": "cpu", "offload_param": "cpu"},
    "second copy": {"stage": 3, "zero_hpz_partition_size": 2},
}


def config(world: World, accumulation: int, reduce_dtype: str, kind: Any = "adamw", **zero: Any) -> TrainConfig:
    return TrainConfig(
        tokens=1,
        global_batch_size=accumulation * world.size,
        micro_batch_size=1,
        optimizer=OptimizerConfig(lr=1e-3, kind=kind, gradient_clipping=0.0),
        zero=ZeroConfig(reduce_dtype=reduce_dtype, **zero),  # type: ignore[arg-type]
        seed=SEED,
    )


def batch(world: World, accumulation: int) -> NDArray[Any]:
    return np.random.default_rng(world.rank).integers(0, VOCAB, (accumulation, 1, 32))


def mean_gradients(world: World, accumulation: int) -> dict[str, Tensor]:
    """Of the bf16 gradients of all ranks' micro-batches, in fp64."""
    model = build(SHAPE, VOCAB, 0, SEED).to(torch.bfloat16)
    sums = {name: torch.zeros_like(one, dtype=torch.float64) for name, one in model.named_parameters()}
    for tokens in torch.from_numpy(batch(world, accumulation)):
        model.zero_grad()
        model(tokens, loss=True).total.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            sums[name] += parameter.grad.double()
    for one in sums.values():
        dist.all_reduce(one)
        one /= accumulation * world.size
    return sums


def error(world: World, accumulation: int, reduce_dtype: str, mean: dict[str, Tensor], **way: Any) -> float:
    """Of one step of an engine. Each rank holds a part of what was fed, and the ranks of stage 0 share it out."""
    train = config(world, accumulation, reduce_dtype, **way)
    engine = start_engine(outline(SHAPE, VOCAB, 0), train, world, zero={"stage3_param_persistence_threshold": 0})
    train_step(engine, batch(world, accumulation))
    decay = {"exp_avg": train.optimizer.betas[0], MOMENTUM: train.optimizer.muon_momentum}
    sums = torch.zeros(2, dtype=torch.float64)
    for key, tensor in state_tensors(engine, world.rank, world.size).items():
        kind, _, rest = key.partition("/")
        if kind in decay:
            start, _, name = rest.partition("/")
            right = mean[name].flatten().narrow(0, int(start), tensor.numel())
            sums += torch.stack(((tensor.double() / (1 - decay[kind]) - right).square().sum(), right.square().sum()))
    dist.all_reduce(sums)
    off, whole = sums.tolist()
    assert math.isclose(whole, sum(float(one.square().sum()) for one in mean.values())), "each number was fed once"
    return math.sqrt(off / whole)


def main(out: str, *ways: str) -> None:
    world = world_from_env(os.environ)
    join_world(world)
    muon_class()  # before DeepSpeed imports it, and has it compiled
    errors: dict[str, dict[str, float]] = {}
    for accumulation in (1, 4):
        mean = mean_gradients(world, accumulation)
        for name in ways or WAYS:
            errors[f"{name}, {accumulation}"] = {
                kind: error(world, accumulation, kind, mean, **WAYS[name]) for kind in ("fp32", "bf16")
            }
    if world.is_main:
        Path(out).write_text(json.dumps(errors))


if __name__ == "__main__":
    main(*sys.argv[1:])
