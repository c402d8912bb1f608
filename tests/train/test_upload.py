"""What is committed here is stored there, beside training: the newest first, the record last, loudly if not at all."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import DataError
from data_prep.files import read_record
from pipeline.config import load_config
from pipeline.errors import PipelineError, StoppedOnNotice
from pipeline.remote import RemoteFolder
from pipeline.scheduler import prune, store_last
from pipeline.status import status_record, status_text
from pipeline.train import stored, upload
from pipeline.train.checkpoint import RECORD_NAME, verify_checkpoint
from pipeline.train.newest import Newest, newest_good
from pipeline.train.stored import (
    Upload,
    doubt_uploads,
    note_upload,
    remote_digest,
    remote_steps,
    remove_stored,
    upload_note,
    uploaded_steps,
)
from pipeline.train.upload import Uploader, upload_checkpoint
from pipeline.train.writer import take_over
from pipeline.workspace import RunFolder, open_workspace
from tests.stores import Outage, files_at, memory_store, tree
from tests.train.small_runs import ALONE, config_tree, write_config
from tests.train.stored_runs import NAMES, Said, begun, run_at, save


@pytest.fixture
def remote() -> Iterator[RemoteFolder]:
    yield from memory_store()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return run_at(tmp_path / "first")


class Gate:
    """Holds the first upload of a file until it is opened; then all go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str = NAMES[1], method: str = "put") -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        send = getattr(RemoteFolder, method)

        def held(folder: RemoteFolder, file_name: str, what: Path | bytes) -> None:
            if file_name == name and not self.opened.is_set():
                self.reached.set()
                assert self.opened.wait(60)
            send(folder, file_name, what)

        monkeypatch.setattr(RemoteFolder, method, held)


def test_a_checkpoint_is_stored_with_what_a_resume_elsewhere_needs(run: RunFolder, remote: RemoteFolder) -> None:
    said = Said()
    digest = save(run, 4)
    begun(run)
    for name in ("config.yaml", "guard.json", "metrics.jsonl"):
        (run.path / name).write_text(name)
    with Uploader(run, remote, said, grace_s=60) as uploader:
        uploader.heard("checkpoint", {"step": 4})
    there = files_at(remote)
    assert b"since" in there.pop("writer.json")
    assert {name.removeprefix("checkpoints/step-00000004/") for name in there if "/" in name} == {*NAMES, RECORD_NAME}
    for name, data in there.items():
        assert data == (run.path / name).read_bytes()
    assert uploaded_steps(run, remote) == {4}
    [line] = said
    size = sum(len(there[f"checkpoints/step-00000004/{name}"]) for name in NAMES)
    assert line.pop("upload_s") > 0
    assert line == {"kind": "upload", "step": 4, "digest": digest, "size_bytes": size, "passed": []}
    assert {path.name for path in run.checkpoints.iterdir()} == {"step-00000004"}, "no links are left"


@pytest.mark.parametrize("broken_at", range(1 + len(NAMES)))
def test_broken_off_at_any_file_there_is_no_checkpoint_yet(
    run: RunFolder, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken_at: int
) -> None:
    """Neither is there when it is a second one of that step that is broken off: then not even the first."""
    save(run, 0)
    upload_checkpoint(run, remote, 0)
    save(run, 4)
    upload_checkpoint(run, remote, 4)
    run.checkpoint(4).rename(run.checkpoints / "step-00000004.rewound-1")
    save(run, 4, "again")
    left = [broken_at]

    def until(folder: RemoteFolder, *arguments: object) -> None:
        if folder.url.endswith("step-00000004") and not left[0]:
            raise DataError("broken off")
        left[0] -= folder.url.endswith("step-00000004")

    with monkeypatch.context() as patch:
        for method in ("put", "write"):
            does = getattr(RemoteFolder, method)
            patch.setattr(RemoteFolder, method, lambda *a, does=does: (until(*a), does(*a))[1])
        with pytest.raises(DataError, match="broken off"):
            upload_checkpoint(run, remote, 4)
    assert remote_digest(remote, 4) is None
    assert newest_good(run_at(tmp_path / "second"), remote, ALONE) == Newest(step=0)
    assert uploaded_steps(run, remote) == {0}
    assert upload_checkpoint(run, remote, 4) is not None
    assert newest_good(run_at(tmp_path / "third"), remote, ALONE).step == 4
    assert upload_checkpoint(run, remote, 4) is None, "it is there already"


def test_of_those_that_wait_only_the_newest_is_stored(
    run: RunFolder, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, gate = Said(), Gate(monkeypatch)
    for step in (0, 4, 8, 12):
        save(run, step)
    with Uploader(run, remote, said, grace_s=60) as uploader:
        uploader.heard("checkpoint", {"step": 0})
        assert gate.reached.wait(60)
        for step in (4, 8, 12):
            uploader.heard("checkpoint", {"step": step})
        gate.opened.set()
    assert remote_steps(remote) == [12, 0]
    assert [(line["step"], line["passed"]) for line in said] == [(0, []), (12, [4, 8])]


def test_a_checkpoint_that_is_pruned_while_it_is_stored_is_stored_whole(
    run: RunFolder, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said, gate = Said(), Gate(monkeypatch)
    save(run, 0)
    before = tree(run.checkpoint(0))
    with Uploader(run, remote, said, grace_s=60) as uploader:
        uploader.heard("checkpoint", {"step": 0})
        assert gate.reached.wait(60)
        prune(run.checkpoint(0))
        gate.opened.set()
    second = run_at(tmp_path / "second")
    assert newest_good(second, remote, ALONE).step == 0
    assert tree(second.checkpoint(0)) == before
    assert [line["step"] for line in said] == [0]


def test_one_that_is_pruned_before_its_turn_is_passed_over(
    run: RunFolder, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, gate = Said(), Gate(monkeypatch)
    save(run, 0)
    save(run, 4)
    with Uploader(run, remote, said, grace_s=60) as uploader:
        uploader.heard("checkpoint", {"step": 0})
        assert gate.reached.wait(60)
        uploader.heard("checkpoint", {"step": 4})
        prune(run.checkpoint(4))
        gate.opened.set()
    assert [line["step"] for line in said] == [0]


def test_a_rollback_drops_what_is_on_its_way_and_takes_back_what_is_stored(
    run: RunFolder, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, gate = Said(), Gate(monkeypatch, name="rng-00000.safetensors")
    gate.opened.set()
    save(run, 0)
    with Uploader(run, remote, said, grace_s=60) as uploader:
        for step in (4, 8, 10):
            save(run, step)
            upload_checkpoint(run, remote, step)
        gate.opened.clear()
        save(run, 12)
        uploader.heard("checkpoint", {"step": 12})
        assert gate.reached.wait(60)
        for step in (8, 10, 12):
            run.checkpoint(step).rename(run.checkpoints / f"step-{step:08d}.rewound-1")
        uploader.heard("guard", {"verdict": "replay", "first": 7})
        assert uploaded_steps(run, remote) == {4}, (
            "at once, or the local copy of another step 8 could be pruned as stored"
        )
        gate.opened.set()
        uploader.heard("resume", {"step": 4})
        digest = save(run, 8, "again")
        uploader.heard("checkpoint", {"step": 8})
    assert remote_steps(remote) == [8, 4]
    assert remote_digest(remote, 8) == digest
    assert uploaded_steps(run, remote) == {4, 8}
    assert [line["step"] for line in said] == [8]


def test_a_rollback_while_the_record_is_sent_leaves_no_note_that_it_is_stored(
    run: RunFolder, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the checkpoint would pass for one that was stored since the rollback, and the next start resume from it."""
    said, gate = Said(), Gate(monkeypatch, RECORD_NAME, "write")
    gate.opened.set()
    save(run, 4)
    upload_checkpoint(run, remote, 4)
    gate.opened.clear()
    save(run, 8)
    with Uploader(run, remote, said, grace_s=60) as uploader:
        uploader.heard("checkpoint", {"step": 8})
        assert gate.reached.wait(60)
        run.checkpoint(8).rename(run.checkpoints / "step-00000008.rewound-1")
        uploader.heard("guard", {"verdict": "replay", "first": 7})
        gate.opened.set()
    assert remote_digest(remote, 8) is not None, "it was on its way"
    assert uploaded_steps(run, remote) == {4}
    assert newest_good(run, remote, ALONE).step == 4
    with Uploader(run, remote, said, grace_s=60) as uploader:
        uploader.heard("resume", {"step": 4})
    assert remote_steps(remote) == [4]


def test_what_is_stored_at_one_remote_is_not_at_another(run: RunFolder, remote: RemoteFolder, tmp_path: Path) -> None:
    """Or a config that names another remote would prune what that one lacks, and remove there what others stored."""
    save(run, 4)
    upload_checkpoint(run, remote, 4)
    second = RemoteFolder(f"file://{tmp_path}/another")
    assert uploaded_steps(run, second) == frozenset()
    assert upload_checkpoint(run, second, 4) is not None
    assert uploaded_steps(run, second) == {4}
    assert uploaded_steps(run, remote) == frozenset(), "of where it was before nothing is removed"


def test_notes_that_another_process_removes_meanwhile_are_none(
    run: RunFolder, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`headrace run` prunes the remote, and forgets it, while training rolls back; and training tidies up while that
    one looks."""
    for step in (0, 4):
        note_upload(run, remote, step, done=True)

    def removed(cls: type[Upload], path: Path) -> Upload:
        if path == run.upload(4):
            path.unlink(missing_ok=True)
        return read_record(cls, path)

    monkeypatch.setattr(stored, "read_record", removed)
    assert uploaded_steps(run, remote) == {0}
    note_upload(run, remote, 4, done=True)
    doubt_uploads(run, 0)
    assert uploaded_steps(run, remote) == frozenset()


def test_of_two_jobs_of_one_run_the_one_that_started_last_stores(
    run: RunFolder, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On two machines that do not see each other's locks; the first is in the middle of an upload."""
    other, said, said_there, gate = run_at(tmp_path / "other"), Said(), Said(), Gate(monkeypatch)
    for step in (4, 12):
        save(run, step, "here")
    save(other, 8, "there")
    with Uploader(run, remote, said, grace_s=60) as uploader:
        uploader.heard("checkpoint", {"step": 4})
        assert gate.reached.wait(60)
        take_over(remote)  # as the other one's thread does first
        gate.opened.set()
        while not said and uploader._thread.is_alive():
            uploader.heard("step", {"step": 5})
        with Uploader(other, remote, said_there, grace_s=60) as second:
            second.heard("checkpoint", {"step": 8})
        uploader.heard("checkpoint", {"step": 12})
    assert [line["step"] for line in said_there] == [8]
    assert [remote_digest(remote, step) is not None for step in (4, 8, 12)] == [False, True, False]
    for step in (4, 12):
        [problem] = [line["problem"] for line in said if line["step"] == step]
        assert "has stored this run's checkpoints since 2" in problem
    assert remote_steps(remote) == [8, 4]


@pytest.mark.parametrize("written", ["config.yaml", "guard.json", "metrics.jsonl"])
def test_who_takes_over_behind_the_last_file_has_nothing_of_his_written_over(
    run: RunFolder, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """Neither the record of the checkpoint, which he may be storing too, nor what a resume reads beside it."""
    save(run, 4)
    for name in ("config.yaml", "state.json", "guard.json", "metrics.jsonl"):
        (run.path / name).write_text("ours")
    monkeypatch.setattr("pipeline.train.upload.check_pins", lambda run, remote: None)
    write = RemoteFolder.write

    def then_taken_over(folder: RemoteFolder, name: str, data: bytes) -> None:
        write(folder, name, data)
        if name == written:
            take_over(remote)
            write(remote, "metrics.jsonl", b"theirs")

    writer = take_over(remote)
    monkeypatch.setattr(RemoteFolder, "write", then_taken_over)
    with pytest.raises(PipelineError, match="end one of the two"):
        upload_checkpoint(run, remote, 4, writer=writer)
    assert remote.read("metrics.jsonl") == b"theirs"
    assert remote_digest(remote, 4) is None


def test_a_store_that_fails_is_told_and_the_next_commit_tries_again(
    run: RunFolder, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, outage = Said(), Outage(monkeypatch)
    save(run, 0)
    save(run, 4)
    with Uploader(run, remote, said, grace_s=60) as uploader:
        outage.broken = True
        uploader.heard("checkpoint", {"step": 0})
        while not said and uploader._thread.is_alive():
            uploader.heard("step", {"step": 1})
        outage.broken = False
        uploader.heard("checkpoint", {"step": 4})
    assert [line["kind"] for line in said] == ["upload", "upload"]
    assert said[0]["step"] == 0
    assert "store failed 2 times, last with 503 Slow Down" in said[0]["problem"]
    assert "the run goes on" in said[0]["problem"]
    assert said[1]["step"] == 4
    assert remote_steps(remote) == [4]


def test_whatever_goes_wrong_is_told_and_does_not_end_the_uploads(
    run: RunFolder, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours is no OSError."""
    said = Said()
    save(run, 0)
    save(run, 4)
    store = upload.upload_checkpoint

    def faulty(run: RunFolder, remote: RemoteFolder, step: int, *rest: Any, **how: Any) -> Any:
        if step == 0:
            raise RuntimeError("a fault of ours")
        return store(run, remote, step, *rest, **how)

    monkeypatch.setattr(upload, "upload_checkpoint", faulty)
    with Uploader(run, remote, said, grace_s=60) as uploader:
        uploader.heard("checkpoint", {"step": 0})
        while not said and uploader._thread.is_alive():
            uploader.heard("step", {"step": 1})
        uploader.heard("checkpoint", {"step": 4})
    assert [(line["step"], "problem" in line) for line in said] == [(0, True), (4, False)]
    assert said[0]["problem"].startswith("a fault of ours; ")


@pytest.mark.parametrize("torn", [b"", b'{"step": 4, "do', b"{}"])
def test_a_torn_note_says_nothing(torn: bytes, run: RunFolder, remote: RemoteFolder) -> None:
    note_upload(run, remote, 2, done=True)
    run.upload(4).write_bytes(torn)
    assert upload_note(run, remote, 4) is None
    assert uploaded_steps(run, remote) == {2}


def test_a_resume_stores_what_is_missing(run: RunFolder, remote: RemoteFolder) -> None:
    """After a crash inside an upload, which leaves a note and some of the files. What others left is not ours."""
    save(run, 4)
    for step in (2, 4):  # the links, also of one that is pruned by now
        (run.checkpoints / f".step-0000000{step}.uploading").mkdir()
    for step in (1, 2):
        remote.write(f"checkpoints/step-0000000{step}/{NAMES[0]}", b"half")
    note_upload(run, remote, 2, done=False)
    said = Said()
    with Uploader(run, remote, said, grace_s=60) as uploader:
        uploader.heard("resume", {"step": 4})
    assert [line["step"] for line in said] == [4]
    assert remote_steps(remote) == [4, 1]
    assert {path.name for path in run.checkpoints.iterdir()} == {"step-00000004"}
    with Uploader(run, remote, said, grace_s=60) as uploader:
        uploader.heard("resume", {"step": 4})
    assert len(said) == 1, "nothing was missing"


def test_the_end_waits_for_the_newest_and_takes_the_journals_last_lines(run: RunFolder, remote: RemoteFolder) -> None:
    said = Said()
    for step in (4, 8):
        save(run, step)
    with Uploader(run, remote, said, grace_s=0) as uploader:
        uploader.heard("checkpoint", {"step": 4})
        while not said:
            uploader.heard("step", {"step": 5})
        run.metrics.write_text("the end\n")
    assert remote.read("metrics.jsonl") == b"the end\n"
    with Uploader(run, remote, said, grace_s=0) as uploader:
        uploader.heard("checkpoint", {"step": 8})
    assert remote_steps(remote) == [8, 4]
    assert len(said) == 2


def test_a_last_checkpoint_that_training_could_not_store_is_stored_by_the_next_headrace_run(
    run: RunFolder, remote: RemoteFolder, tmp_path: Path
) -> None:
    """Training is not started again for it."""
    tree = config_tree(tmp_path / "first", steps=4, every_steps=2)
    config = load_config(write_config(tmp_path / "run.yaml", {**tree, "remote": remote.url}))
    there = remote.at("runs/small")
    assert not store_last(config, run)
    for step in (2, 4):
        save(run, step)
    upload_checkpoint(run, there, 2)
    workspace = open_workspace(config)
    said = status_text(status_record(config, workspace), "")
    assert f"stored       step 2, from here, at {there.url}" in said.splitlines()
    assert store_last(config, run)
    assert status_record(config, workspace)["stored"] == {"at": there.url, "checkpoints": [2, 4]}
    assert status_record(replace(config, remote=None), workspace)["stored"] is None
    assert remote_digest(there, 4) is not None
    assert not store_last(config, run)
    assert not store_last(replace(config, remote=None), run)


@pytest.mark.parametrize("how", ["notice", "error", "lost peer", "late notice"])
def test_after_a_notice_or_an_error_it_waits_no_longer_than_the_grace_and_says_so(
    run: RunFolder, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    said, gate = Said(), Gate(monkeypatch)
    save(run, 4)
    errors = {"notice": StoppedOnNotice(), "error": PipelineError(), "lost peer": RuntimeError()}
    error = errors.get(how)
    uploader = Uploader(run, remote, said, grace_s=0.2, told_to_stop=lambda: how == "late notice")
    with contextlib.suppress(PipelineError, RuntimeError), uploader:
        uploader.heard("checkpoint", {"step": 4})
        assert gate.reached.wait(60)
        if error is not None:
            raise error
    assert ["did not end within train.checkpoint.upload_grace_s=0.2" in line["problem"] for line in said] == [True]
    gate.opened.set()
    uploader._thread.join(60)
    assert remote_digest(remote, 4) is None, "given up is given up: the process was about to exit"
    with Uploader(run, remote, said, grace_s=60) as uploader:
        uploader.heard("resume", {"step": 4})
    assert remote_digest(remote, 4) is not None


def test_what_is_removed_has_no_record_at_any_moment(
    run: RunFolder, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(run, 4)
    upload_checkpoint(run, remote, 4)
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "remove_all", lambda folder: (_ for _ in ()).throw(DataError("broken off")))
        with pytest.raises(DataError):
            remove_stored(run, remote, 4)
    assert remote_digest(remote, 4) is None
    assert uploaded_steps(run, remote) == frozenset()
    remove_stored(run, remote, 4)
    assert files_at(remote) == {}
    verify_checkpoint(run.checkpoint(4))
