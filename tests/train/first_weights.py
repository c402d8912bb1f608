"""One rank of several, as the tests start it: first_weights.py same, or first_weights.py held OUT.

`same` looks at every number that engines start from, at all ZeRO stages, and that none of their groups gives up waiting
before a watchdog. `held` writes for each rank the most bytes that
lived at once while an engine of stage 3 was made, and those that live when it is; every parameter is sharded.
"""

import gc
import json
import os
import sys
import weakref
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed import distributed_c10d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cluster.world import World, world_from_env
from pipeline.config import ModelConfig, OptimizerConfig, TrainConfig, ZeroConfig
from pipeline.config.checks import MAX_TIMEOUT_S
from pipeline.model.decoder import build, outline
from pipeline.train.elastic import STEP, pieces, state_tensors
from pipeline.train.engine import join_world, start_engine

VOCAB, SEED = 97, 7
SHAPE = ModelConfig(layers=2, width=48, heads=4, kv_heads=2, qk_norm=True, base_width=16)
TRAIN = TrainConfig(
    tokens=1,
    global_batch_size=24,
    micro_batch_size=1,
    optimizer=OptimizerConfig(lr=1e-3),
    zero=ZeroConfig(stage=3),
    precision="fp32",
    seed=SEED,
)
SHARD_ALL = {"stage3_param_persistence_threshold": 0}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{f"stage {stage}": ({}, {"zero": ZeroConfig(stage=stage)}) for stage in (0, 1, 2, 3)},  # type: ignore[arg-type]
    "bf16, stage 1": ({}, {"zero": ZeroConfig(stage=1), "precision": "bf16"}),
    "bf16": ({}, {"precision": "bf16"}),
    "bf16, stage 0": ({}, {"zero": ZeroConfig(stage=0), "precision": "bf16"}),
    "bf16, stage 0, Muon": (
        {},
        {"zero": ZeroConfig(stage=0), "precision": "bf16", "optimizer": OptimizerConfig(lr=1e-3, kind="muon")},
    ),
    "tied": ({"tie_embeddings": True}, {}),
    "compiled": ({"compile": "block"}, {}),
    "Muon": ({}, {"optimizer": OptimizerConfig(lr=1e-3, kind="muon")}),
    "offloaded": ({}, {"zero": ZeroConfig(stage=3, offload_param="cpu", offload_optimizer="cpu")}),
    "shared sequences": ({}, {"sequence_parallel": 2}),
    "second copy": ({}, {"zero": ZeroConfig(stage=3, zero_hpz_partition_size=2)}),
    "second copy once more": ({}, {"zero": ZeroConfig(stage=3, zero_hpz_partition_size=2)}),
}
DEEP = ModelConfig(layers=12, width=128, heads=4)


def whole_weights(engine: Any) -> dict[str, torch.Tensor]:
    import deepspeed

    found = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            found[name] = parameter.detach().clone()
    return found


def same(world: World) -> None:
    """Raises AssertionError if a weight, or the fp32 number behind it, is not the one that `build` gives, or if the
    optimizer has taken a step."""
    for way, (shape, options) in WAYS.items():
        if world.size % 2 and ("second" in way or "shared" in way):
            continue
        model, train = replace(SHAPE, **shape), replace(TRAIN, **options)
        engine = start_engine(outline(model, VOCAB, 0), train, world, zero=SHARD_ALL)
        dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
        expected = {name: one.detach().to(dtype) for name, one in build(model, VOCAB, 0, SEED).named_parameters()}
        found = whole_weights(engine)
        assert found.keys() == expected.keys(), way
        for name, one in expected.items():
            assert (found[name].dtype, torch.equal(found[name], one)) == (dtype, True), (way, name)
        own = pieces(engine)
        for piece in own:
            master = expected[piece.name].float().flatten().narrow(0, piece.start, piece.numel)
            assert torch.equal(piece.of(piece.holder), master), (way, piece.name)
        assert STEP not in state_tensors(engine, world.rank, world.size), f"{way}: Adam has taken a step already"
        if train.zero.stage == 3:
            whole = [name for name, one in engine.module.named_parameters() if one.numel()]
            assert not whole, f"{way}: not cut"
        groups = [group._get_backend(torch.device("cpu")) for group in distributed_c10d._world.pg_map]
        assert min(group.options._timeout for group in groups) > timedelta(seconds=MAX_TIMEOUT_S), way


class Held(TorchDispatchMode):
    """Counts the bytes of all storages in host memory that come into being here, until nobody has them any more."""

    live = peak = 0

    def __init__(self) -> None:
        super().__init__()
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor) and one.device.type == "cpu":
                self._count(one.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known.add(storage)
            weakref.finalize(storage, self._gone, storage.nbytes())
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)

    def _gone(self, size: int) -> None:
        self.live -= size


def held(world: World, out: Path) -> None:
    train = replace(TRAIN, zero=ZeroConfig(stage=3, reduce_bucket_size=1000))
    with Held() as counter:
        engine = start_engine(outline(DEEP, VOCAB, 0), train, world, zero=SHARD_ALL)
    gc.collect()
    sizes = [one.ds_numel for one in engine.module.parameters()]
    figures = {"peak": counter.peak, "made": counter.live, "model": 4 * sum(sizes), "largest": 4 * max(sizes)}
    out.with_name(f"{out.name}-{world.rank}").write_text(json.dumps(figures))


def main(what: str, *out: str) -> None:
    world = world_from_env(os.environ)
    join_world(world)
    if what == "same":
        same(world)
    else:
        held(world, Path(*out))


if __name__ == "__main__":
    main(*sys.argv[1:])
