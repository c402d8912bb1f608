"""`headrace cancel`: who is told to save and stop, if anybody still trains.

its job is alive ──────────────> the launcher tells it
a process holds train.lock ────> runs/NAME/stop: it was started by hand, under torchrun or alone
neither ───────────────────────> nobody is told and nothing is left lying: how it ended, and when
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cluster.job import JobRecord, JobState, ended_at, launcher_of, load_job
from pipeline.config import RunConfig
from pipeline.errors import Mistake, PipelineError
from pipeline.locks import is_held
from pipeline.monitor.journal import Line, read_journal
from pipeline.workspace import RunFolder, Workspace

Addressee: TypeAlias = Literal["job", "file", "nobody", "unseen"]

TRAINING = ("start", "resume", "step", "checkpoint", "guard", "told", "notice", "end")
"""Kinds of journal lines that training alone writes."""
ENDED = {
    JobState.SUCCEEDED: "ended with success",
    JobState.FAILED: "failed",
    JobState.STOPPED: "stopped",
    JobState.CANCELLED: "was cancelled",
}


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """What came of it, for `--json`."""

    said: str
    """The same in one line."""
    id: str | None = None
    """The job's, if it is about one."""
    stop: str | None = None
    """The control file that was made."""
    state: str | None = None
    """How it ended; None if somebody was told to stop."""
    ended_at: float | None = None
    """Unix time in seconds; None if somebody was told to stop, or if it is not on record."""


def cancel_run(config: RunConfig, workspace: Workspace) -> Cancelled:
    """Tells whoever trains the run to save and stop.

    Raises Mistake if the run has not begun, PipelineError if nobody can say from here whether its job still runs.
    """
    run = workspace.run(config.name)
    job = load_job(run.job)
    state = launcher_of(job, config.cluster).state(job) if job else None
    told = addressee(state, training=is_held(run.train_lock))
    if told == "file":
        run.stop.touch()
        return Cancelled(said=f"run {config.name} is told to save and stop by {run.stop}", stop=str(run.stop))
    if job is None or state is None:
        return nothing_by_hand(config.name, run, read_journal(run.metrics))
    if told == "unseen":
        raise PipelineError(f"nobody is told to stop: {unseen(job)}")
    if told == "nobody":
        return nothing_of_job(job, state, ended_at(job))
    launcher_of(job, config.cluster).cancel(job)
    return Cancelled(said=f"job {job.id} is told to save and stop", id=job.id)


def addressee(job: JobState | None, *, training: bool) -> Addressee:
    """Whom to tell. job: None if the run has none. training: whether a process says that it trains the run, which may
    also be one that was started by hand when the job was over."""
    if job is not None and job.is_alive:
        return "job"
    if training:
        return "file"
    return "unseen" if job is JobState.UNKNOWN else "nobody"


def nothing_of_job(job: JobRecord, state: JobState, at: float | None) -> Cancelled:
    return Cancelled(
        said=f"nothing to cancel: job {job.id} {ENDED[state]}{_when(at)}", id=job.id, state=state, ended_at=at
    )


def nothing_by_hand(name: str, run: RunFolder, journal: Sequence[Line]) -> Cancelled:
    """Of a run without a job that nobody trains: its journal says how that came. Raises Mistake if it says nothing."""
    lines = [line for line in journal if line["kind"] in TRAINING]
    if not lines:
        raise Mistake(f"run {name} has no job, and nobody has trained it; headrace submit CONFIG would send one")
    last, step = lines[-1], next((line["step"] for line in reversed(lines) if line.get("step") is not None), 0)
    state, how, more = JobState.FAILED, "broke off", f"; a process that is not seen from here stops by {run.stop}"
    if last["kind"] == "end":
        state, how, more = JobState.SUCCEEDED, "was trained to its end", ""
    elif last["kind"] == "notice":
        state, how, more = JobState.STOPPED, "stopped on notice", ""
    return Cancelled(
        said=f"nothing to cancel: run {name} {how} at step {step:,}{_when(last['time'])}{more}",
        state=state,
        ended_at=last["time"],
    )


def unseen(job: JobRecord) -> str:
    """Why nobody knows whether a job still runs, and what to do."""
    if job.launcher == "local":
        return f"job {job.id} was started on {job.handle['host']} and has recorded no end; cancel it there"
    return (
        f"{job.launcher} does not know job {job.id} or gives no answer, and it has recorded no end; "
        "try again when the cluster answers"
    )


def _when(at: float | None) -> str:
    """In this machine's time zone."""
    return f", {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))}" if at is not None else ", its end not recorded"
