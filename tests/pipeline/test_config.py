"""Every mistake in a config is one line that names the key and what to do."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import changed_keys, load_config, weight_shaping
from pipeline.errors import Mistake
from tests.train.small_runs import config_tree


def load(tmp_path: Path, tree: Any = None, *overrides: str) -> Any:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree or config_tree(tmp_path / "ws", steps=10, every_steps=5)))
    return load_config(path, overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.optimizer.learning_rate=1",
            r"train.optimizer.learning_rate: unknown key; known keys: lr, weight_decay",
        ),
        ("train.optimizer.weightdecay=1", r"unknown key; did you mean 'weight_decay'"),
        ("data.sources.0.wieght=1", r"data.sources.0.wieght: unknown key; did you mean 'weight'"),
        ("data.sources.7.weight=1", r"'7' is not a place in a list of 2"),
        ("trian.tokens=1", r"trian: unknown key; did you mean 'train'"),
        ("train.tokens=many", r"train.tokens: .*'many'"),
        ("train.zero.stage=4", r"train.zero.stage: .*4"),
        (
            "train.global_batch_size=9",
            r"9 is not divisible by 2 ranks × micro-batch 2 = 4; the nearest that fit: 8, 12",
        ),
        ("train.global_batch_size=3", r"the nearest that fit: 4$"),
        ("train.micro_batch_size=0", r"train.micro_batch_size: 0 must be at least 1"),
        ("model.heads=5", r"model.heads: width 32 over 5 heads"),
        ("model.kv_heads=3", r"model.kv_heads: 4 heads cannot be shared by 3"),
        ("train.schedule.warmup_steps=1000", r"more than the run's 10 steps"),
        ("workspace=s3://bucket/x", r"s3://bucket/x is remote"),
        ("name=../escape", r"name: '../escape' must be"),
        ("data.sources.0.weight=0", r"data.sources.0.weight: 0.0 must be more than 0"),
        ("noequals", r"'noequals' is not of the form section.key=value"),
        ("train.tokens.deep=1", r"'tokens' holds 5120, which has no keys"),
        ("promote.alias=x", r"promote.model: missing"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(Mistake, match=message) as caught:
        load(tmp_path, None, override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "not YAML"),
        ("- a\n- b", "is a mapping with the keys name, data"),
        ("name: x", "missing; add it"),
        ("", "mapping"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(Mistake, match=message):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no such config file"):
        load_config(tmp_path / "none.yaml")


def test_overrides_reach_everywhere(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        None,
        "train.optimizer.lr=3e-4",
        "data.sources.1.weight=0.5",
        "promote.model=m",
        "cluster.slurm.partition=gpu",
    )
    assert config.train.optimizer.lr == 3e-4
    assert config.data.sources[1].weight == 0.5
    assert config.promote.model == "m"
    assert config.cluster.slurm.partition == "gpu"


def test_digest_follows_the_weights_and_nothing_else(tmp_path: Path) -> None:
    base = load(tmp_path)
    for same in (
        "train.zero.stage=3",
        "train.micro_batch_size=1",
        "train.checkpoint.every_steps=1",
        "monitor.wandb.project=x",
    ):
        assert load(tmp_path, None, same).digest == base.digest, same
    for other in (
        "train.optimizer.lr=1",
        "train.seed=1",
        "model.layers=3",
        "data.sources.0.weight=9",
        "train.tokens=9999",
    ):
        assert load(tmp_path, None, other).digest != base.digest, other


def test_changed_keys_are_named(tmp_path: Path) -> None:
    before, after = load(tmp_path), load(tmp_path, None, "train.optimizer.lr=1")
    assert changed_keys(weight_shaping(before), weight_shaping(after)) == ["train.optimizer.lr: 0.003 -> 1.0"]
