"""Optimizers and sharding: who trains what, what DeepSpeed is told, and Muon's resume to the last bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import ModelConfig, OptimizerConfig, TrainConfig, ZeroConfig, load_config
from pipeline.errors import Mistake
from pipeline.model.decoder import build
from pipeline.monitor.journal import read_journal, unbroken
from pipeline.train.checkpoint import WEIGHTS_NAME
from pipeline.train.engine import deepspeed_config
from pipeline.train.optim import optimizer_of
from tests.train.small_runs import config_tree, run_ranks, small_corpus, write_config

MODEL = ModelConfig(layers=2, width=32, heads=4, kv_heads=2)


def names_by_group(config: OptimizerConfig, shape: ModelConfig = MODEL) -> list[tuple[dict[str, Any], set[str]]]:
    model = build(shape, 300, 0, seed=0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = optimizer_of(model, config).param_groups
    found = [(group, {names[one] for one in group["params"]}) for group in groups]
    assert sorted(name for _, some in found for name in some) == sorted(names.values()), "each parameter once"
    return found


def test_adamw_decays_matrices_and_no_vectors() -> None:
    (matrices, many), (vectors, few) = names_by_group(OptimizerConfig(lr=1e-3, weight_decay=0.3))
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert "embedding.weight" in many
    assert all("norm" in name for name in few)


def test_muon_trains_the_blocks_matrices_and_adamw_the_rest() -> None:
    config = OptimizerConfig(
        lr=1e-3, kind="muon", muon_lr=0.02, muon_momentum=0.9, betas=(0.8, 0.9), gradient_clipping=0
    )
    groups = names_by_group(config)
    muon = [(group, names) for group, names in groups if group["use_muon"]]
    assert len(muon) == 1
    group, names = muon[0]
    assert len(names) == 2 * 7
    assert not any(name.startswith(("embedding", "output")) or "norm" in name for name in names)
    assert all(one.use_muon and one.ndim == 2 for one in group["params"])
    assert (group["momentum"], group["weight_decay"], group["lr"]) == (0.9, 0.1, 0.02)
    assert group["lr_multiplier"] * config.lr == pytest.approx(0.02)
    for other, _ in groups:
        if not other["use_muon"]:
            assert (other["betas"], other["lr"], other["lr_multiplier"]) == ((0.8, 0.9), 1e-3, 1.0)
            assert not any(one.use_muon for one in other["params"])


def test_muons_rate_and_decay_are_the_same_at_every_width_whatever_adamws_are() -> None:
    config = OptimizerConfig(lr=1e-3, kind="muon", muon_lr=0.02, gradient_clipping=0)
    wide = ModelConfig(layers=2, width=64, heads=4, base_width=16, qk_norm=True)
    figures = {
        group["name"]: (group["use_muon"], group["lr_multiplier"], group["weight_decay"], len(names))
        for group, names in names_by_group(config, wide)
    }
    assert figures == {
        "matrices": (False, 1.0, 0.1, 2),
        "vectors": (False, 1.0, 0.0, 2 * 4 + 1),
        "matrices-muon": (True, 20.0, 0.1, 2 * 7),
    }


def a_train(zero: dict[str, Any], **optimizer: Any) -> TrainConfig:
    return TrainConfig(
        tokens=1,
        global_batch_size=16,
        micro_batch_size=2,
        optimizer=OptimizerConfig(lr=1e-3, **optimizer),
        zero=ZeroConfig(**zero),
    )


@pytest.mark.parametrize(
    ("zero", "told"),
    [
        ({"stage": 1}, "fp32"),
        ({"stage": 1, "reduce_dtype": "bf16"}, "bf16"),
        ({"stage": 3}, "fp32"),
        ({"stage": 3, "zero_quantized_gradients": True}, "bf16"),  # its kernels read two bytes
    ],
)
def test_deepspeed_is_told_what_gradients_travel_in(zero: dict[str, Any], told: str) -> None:
    assert deepspeed_config(a_train(zero), 4, 1000)["communication_data_type"] == told


def test_deepspeed_is_told_batches_and_precision() -> None:
    told = deepspeed_config(a_train({"stage": 2}), 4, 1000)
    assert (told["train_batch_size"], told["train_micro_batch_size_per_gpu"]) == (16, 2)
    assert told["gradient_accumulation_steps"] == 2
    assert told["bf16"]["enabled"]
    assert told["bf16"]["check_grad_overflow"], "else a norm that is no number is -1, a good one"
    assert told["zero_optimization"] == {
        "stage": 2,
        "overlap_comm": False,
        "reduce_bucket_size": 1000,
        "reduce_scatter": False,
    }


@pytest.mark.parametrize(
    ("asked", "parameters", "bucket"), [(None, 10**6, 10**6), (None, 10**10, 5 * 10**8), (77, 10**6, 77)]
)
def test_the_reduce_bucket_is_no_larger_than_the_model(asked: int | None, parameters: int, bucket: int) -> None:
    told = deepspeed_config(a_train({"stage": 1, "reduce_bucket_size": asked}), 1, parameters)
    assert told["zero_optimization"]["reduce_bucket_size"] == bucket


def test_offload_and_zero_plus_plus_are_passed_through() -> None:
    options = {"zero_hpz_partition_size": 8, "zero_quantized_weights": True, "zero_quantized_gradients": True}
    told = deepspeed_config(
        a_train({"stage": 3, "offload_optimizer": "cpu", "offload_param": "cpu", **options}), 8, 1000
    )
    offload = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    assert told["zero_optimization"]["offload_optimizer"] == told["zero_optimization"]["offload_param"] == offload
    assert options.items() <= told["zero_optimization"].items()
    assert "reduce_scatter" not in told["zero_optimization"]
    assert deepspeed_config(a_train({"stage": 3}, kind="muon"), 8, 1000)["zero_optimization"]["reduce_scatter"] is False


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.zero.offload_param=cpu"], "train.zero.offload_param: needs train.zero.stage=3, but the stage is 1"),
        (["train.zero.zero_quantized_weights=true"], "zero_quantized_weights: needs train.zero.stage=3"),
        (["train.zero.zero_quantized_gradients=true"], "zero_quantized_gradients: needs train.zero.stage=3"),
        (["train.zero.zero_hpz_partition_size=2"], "zero_hpz_partition_size: needs train.zero.stage=3"),
        (
            ["train.zero.stage=3", "model.compile=model"],
            "model.compile: model is one graph of all blocks, .* use block",
        ),
        (["train.zero.stage=3", "train.zero.zero_hpz_partition_size=3"], "must divide the run's 2 ranks"),
        (["train.zero.stage=3", "train.zero.zero_quantized_weights=true"], "its kernels need a GPU"),
        (
            [
                "train.zero.stage=3",
                "train.zero.zero_quantized_weights=true",
                "cluster.gpus_per_node=2",
                "train.precision=bf16",
                "train.batch_warmup=[{global_batch_size: 4, tokens: 1024}]",
            ],
            "train.zero.zero_quantized_weights: not with train.batch_warmup",
        ),
        (
            [
                "train.optimizer.kind=muon",
                "train.optimizer.gradient_clipping=0",
                "train.zero.stage=3",
                "train.zero.zero_quantized_gradients=true",
                "cluster.gpus_per_node=2",
            ],
            "zero_quantized_gradients: not with train.optimizer.kind=muon",
        ),
        (["train.zero.stage=0", "train.zero.offload_optimizer=cpu"], "needs train.zero.stage=1 or more"),
        (["train.zero.reduce_bucket_size=0"], "reduce_bucket_size: 0 must be at least 1"),
        (["train.optimizer.kind=muon"], "set it to 0 with train.optimizer.kind=muon"),
        (
            ["train.optimizer.kind=muon", "train.optimizer.gradient_clipping=0", "train.zero.offload_optimizer=cpu"],
            "not with train.optimizer.kind=muon",
        ),
        (["train.guard.skip_steps=0"], "skip_steps: 0 must be at least 1"),
        (["train.guard.max_rollbacks=-1"], "max_rollbacks: -1 must not be negative"),
        (["train.guard.step_timeout_s=9000"], "not above train.guard.start_timeout_s, 7200"),
    ],
)
def test_what_deepspeed_would_not_take_is_refused_in_one_line(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    path = write_config(tmp_path / "run.yaml", config_tree(tmp_path, steps=4, every_steps=2))
    load_config(path)
    with pytest.raises(Mistake, match=message) as refused:
        load_config(path, overrides)
    assert "\n" not in str(refused.value)


def test_only_what_shapes_the_weights_is_in_the_digest(tmp_path: Path) -> None:
    path = write_config(tmp_path / "run.yaml", config_tree(tmp_path, steps=4, every_steps=2))
    plain = load_config(path).digest
    for same in ("train.guard.window_steps=7", "train.zero.reduce_bucket_size=7", "train.optimizer.muon_lr=0.5"):
        assert load_config(path, [same]).digest == plain, same
    muon = ["train.optimizer.kind=muon", "train.optimizer.gradient_clipping=0"]
    changed = {load_config(path, [*muon, f"train.optimizer.muon_lr={lr}"]).digest for lr in (0.01, 0.02)}
    assert len({plain, *changed}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])  # 2 keeps its state as 1 does, 0 needs no sharding
def test_muon_trains_alike_whatever_is_sharded_and_resumes_bitwise(tmp_path: Path, stage: int) -> None:
    tree: dict[str, Any] = config_tree(tmp_path / "ws", steps=4, every_steps=2, stage=stage)
    tree["train"]["optimizer"] = {"lr": 3e-3, "kind": "muon", "gradient_clipping": 0}
    config, corpus = write_config(tmp_path / "run.yaml", tree), tmp_path / "corpus"
    small_corpus(corpus)
    run = tmp_path / "ws/runs/small"
    final = run / "checkpoints/step-00000004"

    def figures() -> list[tuple[float, float]]:
        return [(line["loss"], line["grad_norm"]) for line in unbroken(read_journal(run / "metrics.jsonl"))]

    run_ranks(config, corpus)
    whole, weights = figures(), (final / WEIGHTS_NAME).read_bytes()
    shutil.rmtree(final)
    run_ranks(config, corpus)
    assert read_journal(run / "metrics.jsonl")[-5]["kind"] == "resume"
    assert figures() == whole
    assert (final / WEIGHTS_NAME).read_bytes() == weights
    assert [loss for loss, _ in whole] == pytest.approx([5.828, 5.484, 5.049, 4.693], abs=2e-3)
