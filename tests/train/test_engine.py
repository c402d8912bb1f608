"""What the ranks' engines have in common."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.world import World, world_env
from pipeline.config import load_config
from pipeline.config.tree import GuardConfig
from pipeline.errors import Mistake
from pipeline.train.rank import train_rank
from pipeline.workspace import open_workspace
from tests.train.small_runs import config_tree, start_script, write_config

FAILING = Path(__file__).with_name("from_main_fails.py")
WAITING = Path(__file__).with_name("waits.py")


@pytest.mark.slow
def test_what_rank_0_cannot_make_is_the_same_error_on_all_ranks(tmp_path: Path) -> None:
    process = start_script(FAILING, tmp_path, ranks=2)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert (tmp_path / "rank-0").read_text().splitlines() == [
        "Mistake: train.lr: no",
        "ValueError: guard.json: torn",
        "7",
    ]
    assert (tmp_path / "rank-1").read_text().splitlines() == [
        "Mistake: train.lr: no",
        "PipelineError: rank 0: ValueError('guard.json: torn')",
        "7",
    ]


@pytest.fixture(scope="module")
def waits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("waits") / "waits.json"
    process = start_script(WAITING, out, ranks=1)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.slow
def test_no_micro_batch_waits_for_the_device(waits: dict[str, Any]) -> None:
    """A GPU that has been waited for stands still until it is given work again: a step reads numbers once, at its end,
    whatever its micro-batches."""
    assert len(waits["figures"]) == 8
    for name, (*_, of_two, of_four) in waits["figures"].items():
        assert of_two == of_four, name
        assert "synchronize" not in of_four, name


@pytest.mark.slow
def test_no_group_of_ranks_gives_up_before_the_watchdog_does(waits: dict[str, Any]) -> None:
    assert len(waits["patience"]) > 1, "DeepSpeed has one of its own"
    assert min(waits["patience"]) > GuardConfig().start_timeout_s


def test_a_rank_that_sees_no_gpu_of_its_own_says_so_before_it_meets_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write_config(tmp_path / "run.yaml", config_tree(tmp_path / "ws", steps=4, every_steps=4)))
    world = World(rank=1, size=2, local_rank=1, local_size=2, master_addr="127.0.0.1", master_port=1)
    for name, value in world_env(world).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(Mistake, match=r"1 GPU for 2 ranks"):
        train_rank(config, open_workspace(config))
