"""`cancel` tells whoever trains, and where nobody does it says how the run ended and leaves nothing lying."""

import os
from pathlib import Path
from typing import Any

import pytest

from cluster.job import JobRecord, JobState, load_job, store_exit, store_job
from cluster.processes import host_name
from pipeline.cancel import Cancelled, addressee, cancel_run
from pipeline.config import RunConfig, load_config
from pipeline.errors import Mistake, PipelineError
from pipeline.locks import is_held, locked
from pipeline.monitor.journal import Journal
from pipeline.workspace import RunFolder, Workspace
from tests.train.small_runs import config_tree, write_config


@pytest.mark.parametrize(
    ("job", "training", "told"),
    [
        (JobState.PENDING, False, "job"),
        (JobState.RUNNING, True, "job"),  # by its own rank 0
        (JobState.SUCCEEDED, False, "nobody"),
        (JobState.FAILED, True, "file"),  # trained on by hand
        (JobState.UNKNOWN, True, "file"),
        (JobState.UNKNOWN, False, "unseen"),
        (None, True, "file"),
        (None, False, "nobody"),
    ],
)
def test_whom_to_tell(job: JobState | None, training: bool, told: str) -> None:
    assert addressee(job, training=training) == told


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return load_config(write_config(tmp_path / "run.yaml", config_tree(tmp_path / "ws", steps=6, every_steps=2)), ())


@pytest.fixture
def run(config: RunConfig) -> RunFolder:
    folder = Workspace(path=Path(config.workspace)).run(config.name)
    folder.path.mkdir(parents=True)
    return folder


def cancel(config: RunConfig) -> Cancelled:
    return cancel_run(config, Workspace(path=Path(config.workspace)))


def local_job(run: RunFolder, host: str) -> JobRecord:
    """A job whose process is no more."""
    gone = {"host": host, "pid": str(os.getpid()), "started": "another boot's"}
    record = JobRecord(launcher="local", id="local-1", name="x", folder=run.job, submitted_at=0.0, handle=gone)
    store_job(record)
    return record


def files(run: RunFolder) -> set[str]:
    return {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("code", "state", "words"), [(0, "succeeded", "ended with success"), (3, "failed", "failed"), (75, "stopped", "")]
)
def test_a_job_that_has_ended_is_told_nothing(
    config: RunConfig, run: RunFolder, code: int, state: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 86_400.5)
    store_exit(run.job, local_job(run, host_name()).id, code)
    before = files(run)
    done = cancel(config)
    assert (done.id, done.state, done.ended_at, done.stop) == ("local-1", state, 86_400.5, None)
    assert done.said.startswith(f"nothing to cancel: job local-1 {words or state}, 1970-01-0")
    assert files(run) == before


def test_a_job_that_was_killed_left_no_time(config: RunConfig, run: RunFolder) -> None:
    local_job(run, host_name())
    done = cancel(config)
    assert (done.said, done.ended_at) == ("nothing to cancel: job local-1 failed, its end not recorded", None)


def test_a_job_of_another_machine_may_still_run(config: RunConfig, run: RunFolder) -> None:
    local_job(run, "elsewhere")
    before = files(run)
    with pytest.raises(PipelineError, match=r"nobody is told to stop: job local-1 was started on elsewhere .* there"):
        cancel(config)
    assert files(run) == before
    with locked(run.train_lock):  # its rank 0 does say that it trains
        assert cancel(config).stop == str(run.stop)
    assert load_job(run.job) is not None


@pytest.mark.parametrize(
    ("lines", "state", "words"),
    [
        ([("end", {"step": 6}), ("eval", {"step": 6})], "succeeded", "was trained to its end at step 6, "),
        ([("step", {"step": 3}), ("told", {}), ("notice", {"step": 3})], "stopped", "stopped on notice at step 3, "),
        ([("notice", {"step": 3}), ("resume", {"step": 3})], "failed", "broke off at step 3, "),
        ([("start", {})], "failed", "broke off at step 0, "),
    ],
)
def test_a_run_that_nobody_trains_by_hand_any_more(
    config: RunConfig, run: RunFolder, lines: list[tuple[str, dict[str, Any]]], state: str, words: str
) -> None:
    with Journal(run.metrics) as journal:
        for kind, figures in lines:
            journal.append(kind, **figures)
    done = cancel(config)
    assert (done.state, done.stop) == (state, None)
    assert done.said.startswith(f"nothing to cancel: run small {words}")
    assert not run.stop.exists()


def test_a_run_that_has_not_begun_is_a_mistake(config: RunConfig) -> None:
    with pytest.raises(Mistake, match="has no job, and nobody has trained it"):
        cancel(config)


def test_a_lock_is_held_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    assert not is_held(path)
    assert not path.exists(), "who only looks makes none"
    with locked(path):
        assert is_held(path)
    assert not is_held(path)
