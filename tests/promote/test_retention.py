import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.promote.retention import checkpoints_to_delete

steps = st.sets(st.integers(0, 1000), max_size=30)


def test_keeps_the_last_and_the_protected() -> None:
    assert checkpoints_to_delete([50, 100, 150, 200], keep_last=2, protected=[50]) == (100,)
    assert checkpoints_to_delete([], keep_last=2, protected=[50]) == ()


def test_newest_is_kept_in_any_case() -> None:
    assert checkpoints_to_delete([50, 100], keep_last=0, protected=[]) == (50,)


def test_negative_is_refused() -> None:
    with pytest.raises(ValueError, match="keep_last is -1"):
        checkpoints_to_delete([1], keep_last=-1, protected=[])


@given(steps, st.integers(1, 10), steps)
def test_what_goes_and_what_stays(steps: set[int], keep_last: int, protected: set[int]) -> None:
    gone = checkpoints_to_delete(steps, keep_last, protected)
    assert list(gone) == sorted(gone)
    assert set(gone) <= steps - protected
    stays = sorted(steps - set(gone))
    assert stays[-keep_last:] == sorted(steps)[-keep_last:]
    assert len(steps - protected - set(gone)) <= keep_last
