"""The job's exit code comes from the ranks, not from a launcher that knows only that something failed."""

import json
from pathlib import Path

import pytest

from cluster.outcome import outcome, read_codes
from cluster.rank import quiet_code


@pytest.mark.parametrize(
    ("codes", "launcher_code", "noticed", "expected"),
    [
        ({0: 0, 1: 0}, 0, False, 0),
        # torchrun and srun may fail in their own clean-up after all ranks are done
        ({0: 0, 1: 0}, 1, False, 0),
        ({0: 75, 1: 75}, 0, True, 75),
        ({0: 75, 1: 75}, 1, False, 75),
        ({0: 0, 1: 75}, 0, True, 75),
        ({1: 7, 0: 143}, 1, False, 7),
        ({0: 143, 1: 7}, 1, False, 7),
        # the first to end is the cause, whatever its rank
        ({1: 7, 0: 1}, 1, False, 7),
        ({1: 7, 0: 75}, 1, True, 7),
        # died of the signal while still importing; killed when the grace was over
        ({0: 143, 1: 75}, 1, True, 75),
        ({0: 75}, 137, True, 75),
        ({}, 137, True, 75),
        # the same with nobody having told it to stop
        ({0: 143, 1: 143}, 1, False, 143),
        ({0: 0}, 1, False, 1),
        ({0: 0}, 0, False, 1),
        ({}, 127, False, 127),
        # out of memory is a failure also after a notice
        ({0: 137, 1: 75}, 1, True, 137),
    ],
)
def test_outcome(codes: dict[int, int], launcher_code: int, noticed: bool, expected: int) -> None:
    assert outcome(codes, world_size=2, launcher_code=launcher_code, noticed=noticed) == expected


def test_codes_come_in_the_order_in_which_ranks_ended(tmp_path: Path) -> None:
    for rank, ended_at in ((0, 3.0), (1, 1.0), (2, 2.0)):
        record = {"rank": rank, "code": rank, "host": "node1", "ended_at": ended_at}
        (tmp_path / f"rank-{rank:05d}.json").write_text(json.dumps(record))
    assert list(read_codes(tmp_path)) == [1, 2, 0]


def test_only_a_stop_is_hidden_from_torchrun() -> None:
    assert [quiet_code(code) for code in (0, 75, 1, 143)] == [0, 0, 1, 143]
