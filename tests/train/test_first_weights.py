"""The weights that a run starts from: the same numbers however they are cut, and never all of them on one rank."""

import json
from pathlib import Path

import pytest

from tests.train.small_runs import start_script

SCRIPT = Path(__file__).with_name("first_weights.py")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_an_engine_starts_from_the_numbers_that_build_draws(ranks: int) -> None:
    process = start_script(SCRIPT, "same", ranks=ranks)
    written, _ = process.communicate(timeout=300)
    assert process.returncode == 0, written


@pytest.mark.slow
def test_no_rank_holds_more_than_its_share_and_a_parameter_while_stage_3_is_made(tmp_path: Path) -> None:
    """The engine's own making included. With four ranks all that one keeps is less than all weights."""
    process = start_script(SCRIPT, "held", tmp_path / "bytes", ranks=4)
    written, _ = process.communicate(timeout=300)
    assert process.returncode == 0, written
    for rank in range(4):
        found = json.loads((tmp_path / f"bytes-{rank}").read_text())
        assert found["made"] < 0.8 * found["model"], "else this shows nothing"
        assert found["peak"] < found["made"] + 3 * found["largest"]
