"""One rank that trains with DeepSpeed's passes over the gradients spared, and with all of them, as the test starts it:
spared_passes.py OUT.

Writes for each way to train, of either side, each step's loss, norm and a digest of the weights; and how many groups'
gradients rank 0 found flat in a step.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cluster.world import World, world_from_env
from pipeline.config import ModelConfig, OptimizerConfig, TrainConfig, ZeroConfig
from pipeline.model.decoder import outline
from pipeline.train import engine as engines

MODEL = ModelConfig(layers=2, width=32, heads=4)
VOCAB_SIZE = 97
ACCUMULATIONS = (2, 1, 3, 2)

WAYS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp32, no clipping": {"optimizer": OptimizerConfig(lr=1e-2, gradient_clipping=0)},
    "fp32, several buckets": {"zero": ZeroConfig(reduce_bucket_size=5000)},
    "fp32, Muon": {"optimizer": OptimizerConfig(lr=1e-2, kind="muon", gradient_clipping=0)},
    "fp32, offloaded": {"zero": ZeroConfig(offload_optimizer="cpu")},
    "bf16": {"precision": "bf16"},
    "stage 2, fp32": {"zero": ZeroConfig(stage=2)},
    "stage 2, bf16": {"zero": ZeroConfig(stage=2), "precision": "bf16"},
    "stage 3, fp32": {"zero": ZeroConfig(stage=3)},
}


def trained(way: dict[str, Any], world: World) -> tuple[list[tuple[float, float, str]], int]:
    zero = ZeroConfig(stage=1)
    common = {"tokens": 1, "global_batch_size": 2 * world.size, "micro_batch_size": 1, "precision": "fp32"}
    train = TrainConfig(**{**common, "optimizer": OptimizerConfig(lr=1e-2), "zero": zero, **way})
    engine = engines.start_engine(outline(MODEL, VOCAB_SIZE, 0), train, world)
    figures, flat = [], 0
    if world.is_main and hasattr(engine.optimizer, "_get_preflattened_grad_partition"):
        answer = engine.optimizer._get_preflattened_grad_partition

        def counted(group: int) -> Any:
            nonlocal flat
            found = answer(group)
            flat += found is not None
            return found

        engine.optimizer._get_preflattened_grad_partition = counted
    for step, count in enumerate(ACCUMULATIONS):
        engines.set_learning_rate(engine, 1e-2)
        tokens = np.random.default_rng([step, world.rank]).integers(0, VOCAB_SIZE, (count, 1, 32))
        losses, norm, _ = engines.train_step(engine, tokens)
        weights = b"".join(one.detach().float().numpy().tobytes() for one in engine.module.parameters())
        figures.append((float(losses[0]), norm, hashlib.sha256(weights).hexdigest()))
    return figures, flat // len(ACCUMULATIONS)


def main(out: str) -> None:
    world = world_from_env(os.environ)
    engines.join_world(world)
    spare_passes, told = engines.spare_passes, {}
    for name, way in WAYS.items():
        ours, flat = trained(way, world)
        engines.spare_passes = lambda optimizer: None
        whole, _ = trained(way, world)
        engines.spare_passes = spare_passes
        told[name] = {"ours": ours, "deepspeed": whole, "flat": flat}
    if world.is_main:
        Path(out).write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
