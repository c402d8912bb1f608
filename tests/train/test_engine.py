"""What the ranks' engines have in common."""

import json
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_no_micro_batch_waits_for_the_device(tmp_path: Path) -> None:
    """A GPU that has been waited for stands still until it is given work again: a step reads numbers once, at its end,
    whatever its micro-batches."""
    out = tmp_path / "waits.json"
    process = start_script(WAITING, out, ranks=1)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    figures = json.loads(out.read_text())
    assert len(figures) == 8
    for name, (*_, of_two, of_four) in figures.items():
        assert of_two == of_four, name
        assert "synchronize" not in of_four, name
