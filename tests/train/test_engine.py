"""What the ranks' engines have in common."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.tree import GuardConfig
from tests.train.small_runs import start_script

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
