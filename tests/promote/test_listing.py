"""`headrace registry`: what was promoted, refused and rolled back, in the order in which it happened."""

from pathlib import Path

from pipeline.promote.history import history
from pipeline.promote.listing import LAST_SHOWN, list_aliases, listing_text
from pipeline.promote.registry import read_entries, rollback

from .worlds import check_checkpoint, promote_step


def eventful(workspace: Path) -> None:
    """Promoted, refused, promoted, and rolled back twice."""
    promote_step(workspace, 100)
    promote_step(workspace, 200)
    promote_step(workspace, 300, worse_by=-0.1)
    promote_step(workspace, 400, worse_by=-0.2)
    rollback(workspace, "tiny", "production", check_checkpoint=check_checkpoint, reason="it swears")
    rollback(workspace, "tiny", "production", check_checkpoint=check_checkpoint)


def test_a_rollback_happens_to_the_checkpoint_that_leaves(tmp_path: Path) -> None:
    eventful(tmp_path)
    events = history(read_entries(tmp_path, "tiny"), "production")
    assert [(event.checkpoint.step, event.said(), event.generation) for event in events] == [
        (100, "promoted", 1),
        (200, "refused", 1),
        (300, "promoted", 2),
        (400, "promoted", 3),
        (400, "rolled back to step 300", 4),
        (300, "rolled back to step 100", 5),
    ]
    assert [event.why for event in events[-2:]] == ["it swears", ""]
    assert all(event.why for event in events[:-2])
    assert history(read_entries(tmp_path, "tiny"), "staging") == ()


def test_every_entry_is_a_line_below_its_alias(tmp_path: Path) -> None:
    assert listing_text(list_aliases(tmp_path)) == "nothing is promoted yet"
    eventful(tmp_path)
    [found] = list_aliases(tmp_path)
    head, columns, *lines = listing_text([found]).splitlines()
    assert head == f"tiny@production  step 100 of test, generation 5, since {found.promoted_at}"
    assert columns.split() == ["time", "step", "run", "what", "why"]
    assert len(lines) == len(found.history) == 6
    assert lines[4] == f"  {found.history[4].time}   400  test  rolled back to step 300  it swears"
    assert {line.index("test") for line in lines} == {columns.index("run")}


def test_of_many_entries_the_last_are_shown(tmp_path: Path) -> None:
    promote_step(tmp_path, 1)
    for step in range(2, LAST_SHOWN + 3):
        promote_step(tmp_path, step)
    lines = listing_text(list_aliases(tmp_path)).splitlines()
    assert lines[1] == f"  the last {LAST_SHOWN} of {LAST_SHOWN + 2} entries:"
    assert [line.split()[1] for line in lines[3:]] == [str(step) for step in range(3, LAST_SHOWN + 3)]


def test_an_alias_that_nothing_reached_is_listed_with_its_refusals(tmp_path: Path) -> None:
    promote_step(tmp_path, 100, worse_by=9.0)
    [found] = list_aliases(tmp_path)
    assert found.alias is None
    head, _, line = listing_text([found]).splitlines()
    assert head == "tiny@production  nothing promoted yet"
    assert line.split()[1:4] == ["100", "test", "refused"]
