import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import CorruptCheckpoint, GateRefused, Mistake
from pipeline.evaluate.report import EvalReport
from pipeline.promote import registry, store
from pipeline.promote.alias import protected_paths
from pipeline.promote.chain import BrokenRegistry, Entry
from pipeline.promote.config import PromoteConfig
from pipeline.promote.listing import list_aliases
from pipeline.promote.registry import (
    AliasMoved,
    champion_report,
    promote,
    read_alias,
    read_entries,
    rollback,
)
from pipeline.promote.verify import verify
from pipeline.train.checkpoint import sealed as checkpoint_sealed
from tests.train.small_runs import RECORD

from .reports import documents, scored
from .worlds import CONFIG, add_checkpoint, check_checkpoint, promote_step, report_at

JOURNAL = "registry/tiny/journal.jsonl"
ALIAS = "registry/tiny/aliases/production.json"


def test_life_of_an_alias(tmp_path: Path) -> None:
    """Promoted, refused, promoted, rolled back, and every step of it verifies."""
    first = promote_step(tmp_path, 100, worse_by=0.0)
    assert (first.kind, first.generation) == ("promote", 1)
    equal = promote_step(tmp_path, 200, worse_by=0.0)
    assert (equal.kind, equal.generation) == ("refuse", 1)
    better = promote_step(tmp_path, 300, worse_by=-0.1)
    assert (better.kind, better.generation) == ("promote", 2)
    assert better.decision is not None
    assert better.decision.looks == 1
    alias = read_alias(tmp_path, "tiny", "production")
    assert alias is not None
    assert (alias.checkpoint.step, alias.generation) == (300, 2)
    assert json.loads((tmp_path / ALIAS).read_text())["checkpoint"]["path"] == "runs/test/checkpoints/step-300"

    back = rollback(tmp_path, "tiny", "production", check_checkpoint=check_checkpoint, reason="it swears")
    assert (back.kind, back.generation, back.checkpoint.step, back.reason) == ("rollback", 3, 100, "it swears")
    report = champion_report(tmp_path, "tiny", "production")
    assert report is not None
    assert report.step == 100
    facts = verify(tmp_path, "tiny", "production", check_checkpoint)
    assert (
        facts[0] == "journal of tiny: 4 entries (2 promotions, 1 refusal, 1 rollback), each follows from the one before"
    )
    assert len([fact for fact in facts if "decided again from its reports" in fact]) == 2
    assert [listing.alias.checkpoint.step for listing in list_aliases(tmp_path) if listing.alias] == [100]


def test_nothing_is_decided_twice(tmp_path: Path) -> None:
    first = promote_step(tmp_path, 100)
    assert promote_step(tmp_path, 100) == first
    refused = promote_step(tmp_path, 200)
    assert promote_step(tmp_path, 200) == refused
    assert len(read_entries(tmp_path, "tiny")) == 2
    stricter = replace(CONFIG, gate=replace(CONFIG.gate, confidence=0.99))
    again = promote_step(tmp_path, 200, config=stricter)
    assert again.decision is not None
    assert again.decision.looks == 1


def test_refusal_without_a_champion_is_not_repeated(tmp_path: Path) -> None:
    refused = promote_step(tmp_path, 100, worse_by=9.0)
    assert refused.kind == "refuse"
    assert promote_step(tmp_path, 100, worse_by=9.0) == refused
    assert read_alias(tmp_path, "tiny", "production") is None


def test_rolled_back_checkpoint_stays_out(tmp_path: Path) -> None:
    promote_step(tmp_path, 100)
    promote_step(tmp_path, 200, worse_by=-0.1)
    rollback(tmp_path, "tiny", "production", check_checkpoint=check_checkpoint)
    with pytest.raises(GateRefused, match=r"step 200 of test was rolled back from tiny@production"):
        promote_step(tmp_path, 200, worse_by=-0.1)
    back = promote_step(tmp_path, 200, worse_by=-0.1, even_if_withdrawn=True)
    assert (back.kind, back.generation) == ("promote", 4)
    assert back.decision is not None
    assert back.decision.looks == 1, "the earlier judgement against this champion still counts"
    verify(tmp_path, "tiny", "production", check_checkpoint)


def test_a_checkpoint_stays_out_and_not_its_weights(tmp_path: Path) -> None:
    """What another run saves is another checkpoint: its record names the run, and its digest covers the record."""
    assert checkpoint_sealed(RECORD).digest != checkpoint_sealed(replace(RECORD, run="other")).digest
    promote_step(tmp_path, 100)
    promote_step(tmp_path, 200, worse_by=-0.1)
    rollback(tmp_path, "tiny", "production", check_checkpoint=check_checkpoint)
    equal = promote_step(tmp_path, 201, worse_by=-0.1)
    assert (equal.kind, equal.checkpoint.step) == ("promote", 201)


def test_nothing_to_roll_back_to(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="has no promoted model tiny; train and promote one first: headrace run CONFIG"):
        rollback(tmp_path, "tiny", "production", check_checkpoint=check_checkpoint)
    assert not (tmp_path / "registry").exists()
    promote_step(tmp_path, 100)
    with pytest.raises(Mistake, match="nothing to go back to"):
        rollback(tmp_path, "tiny", "production", check_checkpoint=check_checkpoint)


def test_aliases_of_one_model_move_on_their_own(tmp_path: Path) -> None:
    promote_step(tmp_path, 100)
    staging = replace(CONFIG, alias="staging")
    promote_step(tmp_path, 200, config=staging)
    promote_step(tmp_path, 300, worse_by=-0.1)
    found = {listing.name: listing.alias for listing in list_aliases(tmp_path) if listing.alias}
    assert {name: (a.checkpoint.step, a.generation) for name, a in found.items()} == {
        "production": (300, 2),
        "staging": (200, 1),
    }
    for name in found:
        verify(tmp_path, "tiny", name, check_checkpoint)


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", ".hidden", "a\nb", "a" * 101, "ü"])
def test_names_cannot_leave_the_registry(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        PromoteConfig(model=name)
    with pytest.raises(ValueError, match="is not a name"):
        PromoteConfig(model="tiny", alias=name)
    with pytest.raises(Mistake, match="no model's name"):
        read_alias(tmp_path, name, "production")
    with pytest.raises(Mistake, match="no alias's name"):
        read_alias(tmp_path, "tiny", name)


def test_checkpoint_outside_the_workspace_is_refused(tmp_path: Path) -> None:
    report = report_at(100)
    for path in (Path("/tmp"), Path("../elsewhere"), tmp_path):
        with pytest.raises(Mistake, match="not inside the workspace"):
            promote(tmp_path, CONFIG, report, path, check_checkpoint=check_checkpoint)


def test_checkpoint_must_be_the_one_evaluated(tmp_path: Path) -> None:
    report, checkpoint = add_checkpoint(tmp_path, report_at(100))
    (checkpoint / "weights").write_text("a flipped bit")
    with pytest.raises(CorruptCheckpoint, match="was evaluated"):
        promote(tmp_path, CONFIG, report, checkpoint, check_checkpoint=check_checkpoint)
    assert read_entries(tmp_path, "tiny") == ()


def test_rollback_to_a_checkpoint_that_went_leaves_the_alias_and_says_what_to_do(tmp_path: Path) -> None:
    first = promote_step(tmp_path, 100)
    promote_step(tmp_path, 200, worse_by=-0.1)
    folder = tmp_path / first.checkpoint.path
    folder.rename(folder.with_name("moved"))
    with pytest.raises(
        Mistake, match=r"^step 100 of test is no longer kept, so tiny@production stays at step 200"
    ) as told:
        rollback(tmp_path, "tiny", "production", check_checkpoint=check_checkpoint)
    assert f"put {folder} back from a copy" in str(told.value)
    assert "\n" not in str(told.value)
    assert len(read_entries(tmp_path, "tiny")) == 2
    folder.with_name("moved").rename(folder)
    assert rollback(tmp_path, "tiny", "production", check_checkpoint=check_checkpoint).checkpoint.step == 100


def test_rollback_to_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    first = promote_step(tmp_path, 100)
    promote_step(tmp_path, 200, worse_by=-0.1)
    (tmp_path / first.checkpoint.path / "weights").write_text("a flipped bit")
    with pytest.raises(CorruptCheckpoint, match="was evaluated"):
        rollback(tmp_path, "tiny", "production", check_checkpoint=check_checkpoint)


def test_two_rollbacks_in_a_row_find_what_retention_kept(tmp_path: Path) -> None:
    """A third may not: docs/checkpoints.md says so."""
    for at in range(4):
        promote_step(tmp_path, 100 + at, worse_by=-0.1 * at)
    kept = protected_paths(read_entries(tmp_path, "tiny"))
    for folder in (tmp_path / "runs/test/checkpoints").iterdir():
        if folder.relative_to(tmp_path).as_posix() not in kept:
            shutil.rmtree(folder)
    for step in (102, 101):
        assert rollback(tmp_path, "tiny", "production", check_checkpoint=check_checkpoint).checkpoint.step == step
    with pytest.raises(Mistake, match="step 100 of test is no longer kept"):
        rollback(tmp_path, "tiny", "production", check_checkpoint=check_checkpoint)


def test_champion_may_be_evaluated_anew(tmp_path: Path) -> None:
    """When the held-out data changes, old and new reports do not compare until the champion is scored on the new."""
    promote_step(tmp_path, 100)
    report, checkpoint = add_checkpoint(tmp_path, report_at(200, worse_by=-0.1, data_digest="new"))
    refused = promote(tmp_path, CONFIG, report, checkpoint, check_checkpoint=check_checkpoint)
    assert refused.kind == "refuse"
    with pytest.raises(Mistake, match="the champion's report is of checkpoint"):
        promote(tmp_path, CONFIG, report, checkpoint, check_checkpoint=check_checkpoint, champion=report)
    anew, _ = add_checkpoint(tmp_path, report_at(100, data_digest="new"))
    entry = promote(tmp_path, CONFIG, report, checkpoint, check_checkpoint=check_checkpoint, champion=anew)
    assert entry.kind == "promote"
    verify(tmp_path, "tiny", "production", check_checkpoint)


def test_who_comes_second_is_told(tmp_path: Path) -> None:
    """Another process promotes while this one decides; nothing of this one is written, and trying again works."""
    promote_step(tmp_path, 100)
    report, checkpoint = add_checkpoint(tmp_path, report_at(300, worse_by=-0.2))

    def overtaken(folder: Path) -> str:
        promote_step(tmp_path, 200, worse_by=-0.1)
        return check_checkpoint(folder)

    with pytest.raises(AliasMoved, match=r"another entry \(promote, step 200 of test, generation 2\).*try again"):
        promote(tmp_path, CONFIG, report, checkpoint, check_checkpoint=overtaken)
    assert [entry.checkpoint.step for entry in read_entries(tmp_path, "tiny")] == [100, 200]
    again = promote(tmp_path, CONFIG, report, checkpoint, check_checkpoint=check_checkpoint)
    assert (again.kind, again.generation) == ("promote", 3)


def test_alias_that_lags_after_a_crash_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promote_step(tmp_path, 100)
    with monkeypatch.context() as patch:
        patch.setattr(registry, "write_alias", _crash)
        with pytest.raises(KeyboardInterrupt):
            promote_step(tmp_path, 200, worse_by=-0.1)
    assert json.loads((tmp_path / ALIAS).read_text())["generation"] == 1
    alias = read_alias(tmp_path, "tiny", "production")
    assert alias is not None
    assert alias.generation == 2, "the journal counts, not the file"
    facts = verify(tmp_path, "tiny", "production", check_checkpoint)
    assert any("lagged behind" in fact for fact in facts)
    assert json.loads((tmp_path / ALIAS).read_text())["generation"] == 2
    assert not any("lagged" in fact for fact in verify(tmp_path, "tiny", "production", check_checkpoint))


def _crash(*_: object) -> None:
    raise KeyboardInterrupt


def test_torn_last_line_is_cut_and_never_counted(tmp_path: Path) -> None:
    promote_step(tmp_path, 100)
    whole = (tmp_path / JOURNAL).read_bytes()
    for torn in (whole[:-1], whole[: len(whole) // 2], b"\0\0\0"):
        (tmp_path / JOURNAL).write_bytes(whole + torn)
        assert len(read_entries(tmp_path, "tiny")) == 1
        verify(tmp_path, "tiny", "production", check_checkpoint)
    promote_step(tmp_path, 200, worse_by=-0.1)
    assert (tmp_path / JOURNAL).read_bytes().startswith(whole)
    assert len((tmp_path / JOURNAL).read_bytes().splitlines()) == 2
    verify(tmp_path, "tiny", "production", check_checkpoint)


def three_entries(tmp_path: Path) -> list[Entry]:
    return [
        promote_step(tmp_path, 100),
        promote_step(tmp_path, 200, worse_by=-0.1),
        promote_step(tmp_path, 300, worse_by=-0.2),
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [lines[0].replace(b'"step":100', b'"step":101'), *lines[1:]], "line 1 was changed after"),
        (lambda lines: [lines[0], lines[1][:50], lines[2]], "line 2 is not a registry entry"),
        (lambda lines: [lines[0], b"", lines[1], lines[2]], "line 2 is not a registry entry"),
        (lambda lines: [lines[0], b"[]", lines[2]], "line 2 is not a registry entry"),
        (lambda lines: [lines[0], lines[2]], "line 2 does not follow"),
        (lambda lines: [lines[1], lines[0], lines[2]], "line 1 does not follow"),
        (lambda lines: [*lines, lines[2]], "line 4 does not follow"),
        (lambda lines: lines[:2], "the journal was cut"),
        (lambda lines: [], "the journal was cut"),
    ],
)
def test_damage_names_the_line(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    three_entries(tmp_path)
    path = tmp_path / JOURNAL
    lines = damage(path.read_bytes().splitlines())
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    before = path.read_bytes()
    with pytest.raises((BrokenRegistry, Mistake), match=message if lines else "was cut|never promoted"):
        verify(tmp_path, "tiny", "production", check_checkpoint)
    with pytest.raises(BrokenRegistry, match=message):
        promote_step(tmp_path, 400, worse_by=-0.3)
    assert path.read_bytes() == before, "a broken journal is never written to"


def test_flipped_bytes_anywhere_are_found(tmp_path: Path) -> None:
    three_entries(tmp_path)
    files = [tmp_path / JOURNAL, tmp_path / ALIAS, *sorted((tmp_path / "registry/tiny/reports").iterdir())]
    for path in files:
        whole = path.read_bytes()
        for place in range(7, len(whole) - 1, max(1, len(whole) // 25)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            if json_equal(path.read_bytes(), whole):
                continue  # one white space became another
            with pytest.raises(BrokenRegistry):
                verify(tmp_path, "tiny", "production", check_checkpoint)
        path.write_bytes(whole)
    verify(tmp_path, "tiny", "production", check_checkpoint)


def json_equal(left: bytes, right: bytes) -> bool:
    try:
        return [json.loads(line) for line in left.splitlines()] == [json.loads(line) for line in right.splitlines()]
    except ValueError:
        return False


def test_alias_pointed_elsewhere_by_hand_is_found(tmp_path: Path) -> None:
    three_entries(tmp_path)
    raw = json.loads((tmp_path / ALIAS).read_text())
    raw["checkpoint"]["path"] = "runs/test/checkpoints/step-100"
    (tmp_path / ALIAS).write_text(json.dumps(raw))
    with pytest.raises(BrokenRegistry, match="changed by hand"):
        verify(tmp_path, "tiny", "production", check_checkpoint)


def test_decision_that_its_reports_do_not_give_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate that waves everything through leaves a journal whose chain holds and whose proof does not."""
    promote_step(tmp_path, 100)
    decide = registry.decide
    monkeypatch.setattr(registry, "decide", lambda *question: replace(decide(*question), verdict="promote"))
    promote_step(tmp_path, 200, worse_by=0.5)
    with pytest.raises(BrokenRegistry, match="its reports give another decision"):
        verify(tmp_path, "tiny", "production", check_checkpoint)


def test_verify_outlives_the_run_folder(tmp_path: Path) -> None:
    entries = three_entries(tmp_path)
    for entry in entries[:2]:
        folder = tmp_path / entry.checkpoint.path
        (folder / "weights").unlink()
        folder.rmdir()
    facts = verify(tmp_path, "tiny", "production", check_checkpoint)
    assert len([fact for fact in facts if "deleted since" in fact]) == 2
    current = tmp_path / entries[2].checkpoint.path
    (current / "weights").write_text("changed")
    with pytest.raises(CorruptCheckpoint, match="was promoted"):
        verify(tmp_path, "tiny", "production", check_checkpoint)


def test_verify_needs_no_right_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_entries(tmp_path)
    monkeypatch.setattr(store, "write_alias", _crash)
    monkeypatch.setattr(store.fcntl, "flock", _crash)
    verify(tmp_path, "tiny", "production", check_checkpoint)


def test_retention_keeps_what_rollbacks_need(tmp_path: Path) -> None:
    three_entries(tmp_path)
    entries = read_entries(tmp_path, "tiny")
    kept = protected_paths(entries, last_promotions=2)
    assert kept == {"runs/test/checkpoints/step-200", "runs/test/checkpoints/step-300"}


def test_report_must_say_what_it_is_about(tmp_path: Path) -> None:
    unsealed: EvalReport = replace(scored(documents()), digest="")
    with pytest.raises(AssertionError, match="seal the report first"):
        promote(tmp_path, CONFIG, unsealed, Path("runs/x"), check_checkpoint=check_checkpoint)
