"""The newest good checkpoint is found whichever tier has it, and nothing else is taken for it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.errors import DataError
from data_prep.files import write_record
from pipeline.errors import Mistake, PipelineError, StoppedOnNotice
from pipeline.monitor.journal import Journal, read_journal, unbroken
from pipeline.remote import RemoteFolder
from pipeline.scheduler import prune
from pipeline.train import checkpoint
from pipeline.train.checkpoint import RECORD_NAME, dealt, read_checkpoint, sealed, steps_saved, verify_checkpoint
from pipeline.train.guard import GuardState, Replay, read_guard
from pipeline.train.newest import Newest, candidates, newest_good
from pipeline.train.stored import Upload, doubt_uploads, doubted_steps, remote_steps, upload_note
from pipeline.train.tiers import catch_up, missing_lines
from pipeline.train.upload import upload_checkpoint
from tests.disk import record_disk
from tests.stores import Outage, files_at, harm, memory_store, tree
from tests.train.small_runs import ALONE, start_script
from tests.train.stored_runs import NAMES, begun, run_at, save

RANKS = Path(__file__).with_name("verifying_ranks.py")


@pytest.fixture
def remote() -> Iterator[RemoteFolder]:
    yield from memory_store()


@pytest.fixture
def stored(remote: RemoteFolder, tmp_path: Path) -> RemoteFolder:
    """A remote with steps 0, 4 and 8 of a run."""
    run = run_at(tmp_path / "first")
    for step in (0, 4, 8):
        save(run, step)
        upload_checkpoint(run, remote, step)
    return remote


@given(here=st.sets(st.integers(0, 9)), there=st.sets(st.integers(0, 9)))
def test_the_newest_is_tried_first_and_of_two_copies_the_one_here(here: set[int], there: set[int]) -> None:
    order = [(one.step, one.is_here) for one in candidates(here, there)]
    assert sorted(order) == sorted([*((step, True) for step in here), *((step, False) for step in there)])
    for (step, _), (after, is_here) in pairwise(order):
        assert step > after or (step == after and not is_here)


def test_a_workspace_that_has_none_fetches_the_newest(stored: RemoteFolder, tmp_path: Path) -> None:
    run = run_at(tmp_path / "second")
    assert newest_good(run, stored, ALONE).step == 8
    assert verify_checkpoint(run.checkpoint(8)) == read_checkpoint(run_at(tmp_path / "first").checkpoint(8))
    assert steps_saved(run.checkpoints) == [8]
    assert {path.name for path in run.checkpoints.iterdir()} == {"step-00000008"}
    assert newest_good(run_at(tmp_path / "none"), None, ALONE).step is None
    assert remote_steps(stored) == [8, 4, 0]


@pytest.mark.slow
@pytest.mark.parametrize("harmed", [None, 0, 1], ids=["whole", "found by rank 0", "found by rank 1"])
def test_ranks_fetch_a_checkpoint_together_and_agree(tmp_path: Path, harmed: int | None) -> None:
    first, second, store = (
        run_at(tmp_path / "first"),
        run_at(tmp_path / "second"),
        RemoteFolder((tmp_path / "store").as_uri()),
    )
    for step in (4, 8):
        save(first, step)
        upload_checkpoint(first, store, step)
    files = read_checkpoint(first.checkpoint(8)).files
    if harmed is not None:
        name = next(iter(dealt(files, 2)[harmed]))
        (tmp_path / f"store/checkpoints/step-00000008/{name}").write_bytes(b"")
    process = start_script(RANKS, "fetch", second.path, tmp_path / "store", tmp_path, ranks=2)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    asked, ends = [], set()
    for rank in (0, 1):
        line = (tmp_path / f"rank-{rank}").read_text()
        names, _, found = line.partition("Newest")
        asked.append(names.split())
        ends.add(found)
    [end] = ends
    step = 8 if harmed is None else 4
    assert f"step={step}" in end
    assert steps_saved(second.checkpoints) == [step]
    assert verify_checkpoint(second.checkpoint(step)).step == step
    if harmed is None:
        assert sorted(asked[0] + asked[1]) == sorted(files), "each file once"
        assert abs(len(asked[0]) - len(asked[1])) <= 1
    else:
        assert f"step-00000008/{name} has 0 bytes" in end


def test_what_is_fetched_is_on_disk_by_the_time_it_counts(
    stored: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_at(tmp_path / "second")
    done = record_disk(monkeypatch)
    assert newest_good(run, stored, ALONE).step == 8
    came = max(at for at, one in enumerate(done) if one in [("rename", name) for name in NAMES])
    commit = done.index(("rename", "step-00000008"))
    assert ("sync", ".step-00000008.fetching") in done[came:commit]
    assert done[commit + 1] == ("sync", "checkpoints")


@pytest.mark.parametrize("how", ["flip", "tear", "delete"])
@pytest.mark.parametrize("name", [*NAMES, RECORD_NAME])
def test_a_damaged_one_there_is_named_and_the_one_before_is_used(
    stored: RemoteFolder, tmp_path: Path, name: str, how: str
) -> None:
    run = run_at(tmp_path / "second")
    harm(stored, f"checkpoints/step-00000008/{name}", how)
    found = newest_good(run, stored, ALONE)
    assert found.step == 4
    verify_checkpoint(run.checkpoint(4))
    if (name, how) == (RECORD_NAME, "delete"):
        assert found.damaged == (), "it was never there"
        return
    [problem] = found.damaged
    assert f"checkpoints/step-00000008/{name}" in problem
    assert "use another checkpoint" in problem


def test_what_was_damaged_there_is_stored_anew_though_its_record_is_the_same(
    stored: RemoteFolder, tmp_path: Path
) -> None:
    run = run_at(tmp_path / "second")
    harm(stored, f"checkpoints/step-00000008/{NAMES[1]}", "flip")
    assert newest_good(run, stored, ALONE).step == 4
    save(run, 8)
    assert upload_note(run, stored, 8) == Upload(step=8, done=False, remote=stored.url)
    assert upload_checkpoint(run, stored, 8) is not None
    assert newest_good(run_at(tmp_path / "third"), stored, ALONE).step == 8


def test_damage_here_is_mended_from_there(stored: RemoteFolder, tmp_path: Path) -> None:
    run = run_at(tmp_path / "first")
    (run.checkpoint(8) / NAMES[0]).write_bytes(b"")
    found = newest_good(run, stored, ALONE)
    assert found.step == 8
    assert len(found.damaged) == 1
    verify_checkpoint(run.checkpoint(8))


def test_the_newer_one_of_the_tiers_is_used(stored: RemoteFolder, tmp_path: Path) -> None:
    run = run_at(tmp_path / "second")
    save(run, 6)
    assert newest_good(run, stored, ALONE).step == 8
    run = run_at(tmp_path / "third")
    save(run, 12)
    assert newest_good(run, stored, ALONE).step == 12
    assert steps_saved(run.checkpoints) == [12]


def test_what_a_rollback_set_aside_here_does_not_come_back(stored: RemoteFolder, tmp_path: Path) -> None:
    run = run_at(tmp_path / "first")
    doubt_uploads(run, 3)
    for step in (4, 8):
        run.checkpoint(step).rename(run.checkpoints / f"step-{step:08d}.rewound-1")
    assert doubted_steps(run) == {4, 8}, "so the folders stay while the remote has them"
    found = newest_good(run, stored, ALONE)
    assert (found.step, found.damaged) == (0, ())
    save(run, 4, "on other data")
    assert newest_good(run, stored, ALONE).step == 4
    write_record(run.guard, GuardState())
    stored.put("guard.json", run.guard)
    write_record(run.guard, GuardState(rollbacks=1))
    catch_up(run, stored)
    assert read_guard(run.guard).rollbacks == 1, "the remote is behind, not ahead"


def test_what_is_trained_again_to_the_same_bits_is_no_longer_set_aside(stored: RemoteFolder, tmp_path: Path) -> None:
    """As a checkpoint from behind the first step of a rollback and from before the bad one."""
    run = run_at(tmp_path / "first")
    doubt_uploads(run, 7)
    run.checkpoint(8).rename(run.checkpoints / "step-00000008.rewound-1")
    save(run, 8)
    assert upload_checkpoint(run, stored, 8) is not None
    prune(run.checkpoint(8))
    assert newest_good(run, stored, ALONE).step == 8


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../../../escaped": None}},
        {"files": {"/tmp/escaped": None}},
        {"run": "another"},
        {"step": 7},
    ],
)
def test_a_record_that_lies_brings_nothing(stored: RemoteFolder, tmp_path: Path, change: dict[str, object]) -> None:
    """Its own digest is right: whoever can write the store can make it so."""
    honest = read_checkpoint(run_at(tmp_path / "first").checkpoint(8))
    if "files" in change:
        change = {"files": dict.fromkeys(change["files"], honest.files[NAMES[0]])}  # type: ignore[attr-defined]
    write_record(tmp_path / "lie.json", sealed(replace(honest, **change)))  # type: ignore[arg-type]
    stored.put(f"checkpoints/step-00000008/{RECORD_NAME}", tmp_path / "lie.json")
    run = run_at(tmp_path / "second")
    found = newest_good(run, stored, ALONE)
    assert found.step == 4
    assert len(found.damaged) == 1
    assert not list(tmp_path.rglob("*escaped*"))


def test_other_names_in_the_store_are_nothing(stored: RemoteFolder, tmp_path: Path) -> None:
    for name in ("step-", "step-9", "step-9x", "step-٣", "stop-00000099", "latest"):
        path = f"checkpoints/{name}"
        if name.isascii():
            stored.write(f"{path}/{RECORD_NAME}", b"{}")
    assert remote_steps(stored) == [8, 4, 0]


def test_without_the_store_a_run_goes_on_from_what_it_has_and_says_so(
    stored: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But one that has nothing must not begin again from step 0."""
    run = run_at(tmp_path / "second")
    outage = Outage(monkeypatch)
    outage.broken = True
    for ask in (catch_up, lambda run, remote: newest_good(run, remote, ALONE)):
        with pytest.raises(DataError, match="cannot be read: its store failed"):
            ask(run, stored)
    save(run, 2)
    catch_up(run, stored)
    found = newest_good(run, stored, ALONE)
    assert found.step == 2
    assert found.damaged == ()
    assert "whether it has a checkpoint newer than step 2 is not known" in found.doubts[0]


def test_a_fetch_that_was_broken_off_goes_on(
    stored: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_at(tmp_path / "second")
    asked: list[str] = []
    fetch = RemoteFolder.fetch

    def failing(folder: RemoteFolder, name: str, *rest: object) -> None:
        asked.append(name)
        if len(asked) == len(NAMES):
            raise DataError("broken off")
        fetch(folder, name, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "fetch", failing)
        with pytest.raises(DataError, match="broken off"):
            newest_good(run, stored, ALONE)
    assert steps_saved(run.checkpoints) == []
    [coming] = run.checkpoints.iterdir()
    here = set(tree(coming)) - {RECORD_NAME}
    assert here
    for name in here:
        stored.remove(f"checkpoints/step-00000008/{name}")
    assert newest_good(run, stored, ALONE).step == 8, "what had come is not asked for again"


@pytest.mark.parametrize("tier", ["local", "remote"])
def test_a_notice_between_two_files_ends_the_search(stored: RemoteFolder, tmp_path: Path, tier: str) -> None:
    run = run_at(tmp_path / ("first" if tier == "local" else "second"))
    before = tree(run.checkpoints) if tier == "local" else {}
    calls: list[None] = []

    def told() -> None:
        calls.append(None)
        if len(calls) == 2:
            raise StoppedOnNotice()

    with pytest.raises(StoppedOnNotice):
        newest_good(run, stored, ALONE, between=told)
    assert steps_saved(run.checkpoints) == ([0, 4, 8] if tier == "local" else [])
    assert tier == "remote" or tree(run.checkpoints) == before
    assert newest_good(run, stored, ALONE).step == 8


@pytest.mark.parametrize("tier", ["local", "remote"])
def test_a_notice_in_the_last_file_ends_the_start_too(stored: RemoteFolder, tmp_path: Path, tier: str) -> None:
    """The load behind it may take minutes. What has come by then is kept."""
    run = run_at(tmp_path / ("first" if tier == "local" else "second"))
    files = len(read_checkpoint(run_at(tmp_path / "first").checkpoint(8)).files)
    calls: list[None] = []

    def told() -> None:
        calls.append(None)
        if len(calls) == files + 1:
            raise StoppedOnNotice()

    with pytest.raises(StoppedOnNotice):
        newest_good(run, stored, ALONE, between=told)
    assert steps_saved(run.checkpoints)[-1] == 8


def test_damage_is_said_also_if_a_notice_ends_the_search(stored: RemoteFolder, tmp_path: Path) -> None:
    """The folder is set aside: the next start does not find it any more."""
    run = run_at(tmp_path / "first")
    weights = run.checkpoint(8) / min(read_checkpoint(run.checkpoint(8)).files)
    weights.write_bytes(b"other")
    said: list[str] = []

    def told() -> None:
        if said:
            raise StoppedOnNotice()

    with pytest.raises(StoppedOnNotice):
        newest_good(run, stored, ALONE, between=told, warn=said.append)
    assert steps_saved(run.checkpoints) == [0, 4]
    assert [str(weights) in problem for problem in said] == [True]


# Another run of the same name.


def test_an_older_run_of_this_name_is_not_taken_for_this_one(remote: RemoteFolder, tmp_path: Path) -> None:
    """Its checkpoint would be committed here, and this run be neither trained nor resumed any more."""
    older, run = begun(run_at(tmp_path / "older"), "", 0.1), begun(run_at(tmp_path / "new"), "other", 0.2)
    train(older, range(1, 9), saved_at=8)
    write_record(older.guard, GuardState(rollbacks=1))
    upload_checkpoint(older, remote, 8)
    before, there = tree(run.path), files_at(remote)
    with pytest.raises(
        Mistake, match=rf"remote: {remote.url} holds another run of this name \(train.optimizer.lr: 0.1 -> 0.2\)"
    ):
        catch_up(run, remote)
    assert tree(run.path) == before
    save(run, 4)
    with pytest.raises(Mistake, match="holds another run of this name"):
        upload_checkpoint(run, remote, 4)
    assert files_at(remote) == there, "nor is it written over"


@pytest.mark.parametrize("pins", [None, b"", b'{"torn'])
def test_a_checkpoint_of_another_run_is_not_committed(remote: RemoteFolder, tmp_path: Path, pins: bytes | None) -> None:
    older, run = begun(run_at(tmp_path / "older"), "", 0.1), begun(run_at(tmp_path / "new"), "other", 0.2)
    train(older, range(1, 9), saved_at=8)
    upload_checkpoint(older, remote, 8)
    remote.remove("state.json")
    if pins is not None:
        remote.write("state.json", pins)
    catch_up(run, remote)
    found = newest_good(run, remote, ALONE)
    assert found.step is None
    assert "step-00000008 was made by another config or from another corpus" in found.damaged[0]
    assert steps_saved(run.checkpoints) == []


# What the run has lived through.


def test_the_journal_and_the_guard_come_with_a_newer_checkpoint(remote: RemoteFolder, tmp_path: Path) -> None:
    """Two machines in turn, each of which trained on a while after its last upload."""
    first, second = run_at(tmp_path / "first"), run_at(tmp_path / "second")
    train(first, range(1, 6), saved_at=4)
    upload_checkpoint(first, remote, 4)
    train(first, range(6, 8))
    catch_up(second, remote)
    assert [line["step"] for line in unbroken(read_journal(second.metrics))] == [1, 2, 3, 4, 5]
    with Journal(second.metrics) as journal:
        journal.append("resume", step=4)
    train(second, range(5, 10), saved_at=8)
    write_record(second.guard, GuardState(rollbacks=2, replay=Replay(first=9, last=9)))
    upload_checkpoint(second, remote, 8)

    catch_up(first, remote)
    assert read_guard(first.guard) == read_guard(second.guard)
    curve = unbroken(read_journal(first.metrics))
    assert [(line["step"], line["by"]) for line in curve] == [
        *((step, "first") for step in range(1, 5)),
        *((step, "second") for step in range(5, 10)),
    ]
    steps = [(line["step"], line["by"]) for line in read_journal(first.metrics) if line["kind"] == "step"]
    assert (7, "first") in steps, "what was rewound stays as audit"
    before = first.metrics.read_bytes()
    save(first, 8)
    catch_up(first, remote)
    assert first.metrics.read_bytes() == before


def test_the_journal_of_another_machine_comes_in_one_write_and_to_the_disk(
    remote: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation may append to the journal here meanwhile; and what the checkpoint stands on must not be lost."""
    first, second = run_at(tmp_path / "first"), run_at(tmp_path / "second")
    train(first, range(1, 500), saved_at=499)
    upload_checkpoint(first, remote, 499)
    with Journal(second.metrics) as journal:
        journal.append("told")
    done = record_disk(monkeypatch)
    catch_up(second, remote)
    assert done[:2] == [("write", "metrics.jsonl"), ("sync", "metrics.jsonl")]
    assert ("write", "metrics.jsonl") not in done[2:]
    assert len(unbroken(read_journal(second.metrics))) == 499


@pytest.mark.parametrize("away", ["another job", "the store"])
def test_a_checkpoint_that_came_after_the_journal_was_taken_over_is_left_for_the_next_start(
    remote: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    """Its curve would have a gap, and its data an order that the guard here knows nothing of."""
    first, second = run_at(tmp_path / "first"), run_at(tmp_path / "second")
    train(first, range(1, 5), saved_at=4)
    upload_checkpoint(first, remote, 4)
    catch_up(second, remote)
    assert newest_good(second, remote, ALONE).step == 4
    train(first, range(5, 9), saved_at=8)
    if away == "the store":
        upload_checkpoint(first, remote, 8)
        outage = Outage(monkeypatch)
        outage.broken = True
        catch_up(second, remote)
        outage.broken = False
    else:
        catch_up(second, remote)
        upload_checkpoint(first, remote, 8)
    found = newest_good(second, remote, ALONE)
    assert found.step == 4
    assert "has a newer checkpoint whose journal was not there when this start took it over" in found.doubts[0]
    assert steps_saved(second.checkpoints) == [4]
    catch_up(second, remote)
    assert newest_good(second, remote, ALONE) == Newest(step=8)
    assert [line["step"] for line in unbroken(read_journal(second.metrics))] == [*range(1, 9)]


def train(run, steps, saved_at=None):  # type: ignore[no-untyped-def]
    with Journal(run.metrics) as journal:
        for step in steps:
            journal.append("step", step=step, by=run.path.parents[1].name)
    if saved_at is not None:
        save(run, saved_at)


def test_a_damaged_guard_state_is_an_error(stored: RemoteFolder, tmp_path: Path) -> None:
    stored.write("guard.json", b"{")
    run = run_at(tmp_path / "second")
    with pytest.raises(PipelineError, match=r"guard\.json is not a GuardState record.*put the one of the workspace"):
        catch_up(run, stored)
    assert not run.guard.exists()


lines = st.lists(st.integers(0, 9), max_size=8)


@given(lines, lines, lines, st.sampled_from([b"", b'{"torn']), st.sampled_from([b"", b'{"also torn']))
def test_joined_journals_hold_every_line_once(
    tmp_path_factory: pytest.TempPathFactory,
    both: list[int],
    ours: list[int],
    theirs: list[int],
    torn: bytes,
    torn_there: bytes,
) -> None:
    def encode(*groups: list[int]) -> bytes:
        named = [(at, number) for at, group in enumerate(groups) for number in enumerate(group)]
        return b"".join(json.dumps([at, *number]).encode() + b"\n" for at, number in named)

    here, there = encode(both, ours) + torn, encode(both, [], theirs) + torn_there
    path = tmp_path_factory.mktemp("joined") / "metrics.jsonl"
    path.write_bytes(here)
    with Journal(path) as journal:
        journal.append_lines(missing_lines(here, there))
    joined = path.read_bytes()
    assert joined.startswith(here)
    whole = [line for line in joined.split(b"\n") if line not in (b"", torn)]
    assert whole == encode(both, ours, theirs).split(b"\n")[:-1]
    assert missing_lines(joined, there) == b""


def test_files_are_verified_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hash waits until another one has begun."""
    run, both, hashed = run_at(tmp_path), Barrier(2), checkpoint.sha256_file
    save(run, 4)

    def meeting(path: Path) -> str:
        both.wait(60)
        return hashed(path)

    monkeypatch.setattr(checkpoint, "num_cores", lambda: 2)
    monkeypatch.setattr(checkpoint, "sha256_file", meeting)
    verify_checkpoint(run.checkpoint(4))
