"""The small model has all that could go wrong in the real one."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import ModelConfig, check_model, check_sequence_parallel, load_config
from pipeline.doctor.small import POSITIONS, VOCABULARY, small_model, small_run
from pipeline.plan.shape import count_parameters

CONFIGS = sorted(Path("configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_preset_becomes_a_model_of_seconds(path: Path) -> None:
    config = load_config(path)
    small = small_run(config, config.world_size, 50_000)
    check_model(small.model)
    assert count_parameters(small.model, VOCABULARY).total < 10_000_000
    assert small.data.sequence_length <= POSITIONS
    assert small.train.micro_batch_size == config.train.micro_batch_size
    assert small.train.global_batch_size % (config.world_size * config.train.micro_batch_size) == 0
    assert replace(small.train.zero, reduce_bucket_size=None) == config.train.zero


@pytest.mark.parametrize("peers", [2, 4, 8, 32])
@pytest.mark.parametrize("kv_heads", [None, 8, 2])
def test_ranks_that_share_sequences_can_share_the_small_ones(peers: int, kv_heads: int | None) -> None:
    config = load_config(Path("configs/7b.yaml"))
    train = replace(config.train, sequence_parallel=peers)
    config = replace(config, model=replace(config.model, kv_heads=kv_heads), train=train)
    check_sequence_parallel(config)
    check_sequence_parallel(small_run(config, config.world_size, 32_000))


def test_sharing_of_heads_and_all_options_stay() -> None:
    model = ModelConfig(
        layers=80,
        width=8192,
        heads=64,
        kv_heads=8,
        mlp_width=28672,
        tie_embeddings=True,
        qk_norm=True,
        z_loss=1e-4,
        logit_soft_cap=30.0,
        base_width=256,
        recompute="block",
        recompute_every=2,
        loss_chunk_size=2048,
        compile="block",
    )
    small = small_model(model, positions=256)
    assert small.heads // (small.kv_heads or 0) == 8
    assert small.mlp_width == small.width * 28672 // 8192
    assert small.base_width is not None
    assert small.width / small.base_width == 8192 / 256
    assert (small.loss_chunk_size, small.compile) == (128, "none")
    kept = ("tie_embeddings", "qk_norm", "z_loss", "logit_soft_cap", "recompute", "recompute_every")
    assert [getattr(small, one) for one in kept] == [getattr(model, one) for one in kept]


def test_as_many_buckets_fill_as_in_the_real_model() -> None:
    config = load_config(Path("configs/7b.yaml"))
    small = small_run(config, config.world_size, 32_000)
    assert small.train.zero.reduce_bucket_size is not None
    real = count_parameters(config.model, 32_000).total / 500_000_000
    few = count_parameters(small.model, VOCABULARY).total / small.train.zero.reduce_bucket_size
    assert few == pytest.approx(real, rel=0.01)
