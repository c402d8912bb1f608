import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.promote.retention import checkpoints_to_delete, local_to_delete, set_aside_to_delete

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


def test_of_what_was_set_aside_the_latest_stays() -> None:
    names = [
        *("step-00000010.rewound", "step-00000020.rewound-9", "step-00000030.rewound-9", "step-00000020.rewound-10"),
        *("step-00000030.rewound-10", "step-00000040.corrupt", "step-100000000.corrupt"),
        *("step-00000030", ".step-00000040.saving", "step-00000050.mine"),
    ]
    gone = ["step-00000010.rewound", "step-00000020.rewound-9", "step-00000030.rewound-9", "step-00000040.corrupt"]
    assert set_aside_to_delete(names, protected=[]) == tuple(gone)
    assert set_aside_to_delete(names, protected=[30, 40]) == tuple(gone[:2])
    assert set_aside_to_delete([], protected=[]) == ()


@given(st.sets(st.tuples(st.integers(0, 40), st.integers(0, 12) | st.none())), st.sets(st.integers(0, 40)))
def test_what_is_left_of_the_set_aside_is_bounded_and_referenced_is_spared(
    folders: set[tuple[int, int | None]], protected: set[int]
) -> None:
    names = {f"step-{s:08d}.corrupt" if k is None else f"step-{s:08d}.rewound-{k}": (s, k) for s, k in folders}
    gone = set_aside_to_delete(names, protected)
    assert not {names[name][0] for name in gone} & protected
    stays = [names[name] for name in names.keys() - set(gone) if names[name][0] not in protected]
    latest = {rollback for _, rollback in folders if rollback is not None}
    assert {rollback for _, rollback in stays if rollback is not None} <= {max(latest, default=0)}
    assert sum(rollback is None for _, rollback in stays) <= 1
    assert set_aside_to_delete(names.keys() - set(gone), protected) == (), "once is enough"
    if folders:
        assert len(gone) < len(names)


def test_the_workspace_keeps_fewer_of_what_is_recorded_elsewhere() -> None:
    steps, stored = [10, 20, 30, 40, 50], {20, 40}
    assert local_to_delete(steps, 3, None, [], stored) == (10, 20)
    assert local_to_delete(steps, 3, 1, [], stored) == (10, 20, 40)
    assert local_to_delete(steps, 3, 1, [40], stored) == (10, 20)
    assert local_to_delete(steps, 3, 1, [], ()) == (10, 20)


@given(steps, st.integers(1, 5), st.integers(1, 5) | st.none(), steps, steps)
def test_nothing_goes_early_that_is_not_recorded_elsewhere_and_nothing_protected_ever(
    steps: set[int], keep_last: int, keep_local: int | None, protected: set[int], uploaded: set[int]
) -> None:
    gone = {*local_to_delete(steps, keep_last, keep_local, protected, uploaded)}
    outdated = {*checkpoints_to_delete(steps, keep_last, protected)}
    assert outdated <= gone <= steps - protected
    assert gone - outdated <= uploaded
    assert not steps or max(steps) not in gone
    if keep_local is not None and steps <= uploaded:
        assert len(steps - protected - gone) <= min(keep_last, keep_local)
