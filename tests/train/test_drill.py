"""Four rounds of the drill, with strikes that come again; `python -m tests.train.drill` goes on for as long as one likes."""

import os
import subprocess
import sys

import pytest

from tests.train.drill import MAIN_ONLY, POINTS, drawn
from tests.warm import ROOT


def test_a_round_is_drawn_from_seed_and_number_alone_and_its_last_start_is_not_struck() -> None:
    rounds = [drawn(7, number) for number in range(64)]
    assert rounds == [drawn(7, number) for number in range(64)]
    first = [(one.stage, one.optimizer) for one in rounds[:10] if not one.elastic]
    assert sorted(first) == sorted((stage, kind) for stage in range(4) for kind in ("adamw", "muon"))
    strikes = [start.strike for one in rounds for start in one.starts[:-1]]
    assert all(one.starts[-1].strike is None for one in rounds)
    assert {strike.point for strike in strikes if strike} == {*POINTS}
    assert all(strike and (strike.rank == 0 or strike.point not in MAIN_ONLY) for strike in strikes)


SEED = 30
"""Its first four rounds have no strike by the clock, which falls where the machine's speed puts it."""


@pytest.mark.slow
def test_whatever_strikes_the_run_ends_as_the_unbroken_one() -> None:
    rounds, seed = os.environ.get("HEADRACE_DRILL_ROUNDS", "4"), os.environ.get("HEADRACE_DRILL_SEED", str(SEED))
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.drill", "--rounds", rounds, "--seed", seed],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(
        start.strike is None or start.strike.point != "clock" for at in range(4) for start in drawn(SEED, at).starts
    )
    told = done.stdout.splitlines()[:-1]
    assert len(told) == int(rounds)
    assert sum(" 0 deaths, 0 notices" in line for line in told) < len(told) / 2, "strikes that fell in time"
