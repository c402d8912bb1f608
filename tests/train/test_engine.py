"""What the ranks' engines have in common."""

from pathlib import Path

import pytest

from tests.train.small_runs import start_script

FAILING = Path(__file__).with_name("from_main_fails.py")


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
