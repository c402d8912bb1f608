"""What a job is, what can be known of it, and the one seam between headrace and whoever starts its processes.

    JobSpec ──submit──> JobRecord (folder/job.json) ──state──> JobState
                            │
                            ├──logs──> lines of folder/log.txt
                            └──cancel──> folder/attempts/ID/{cancelled,stop}

A job's end is our own record, folder/exit.json, which the job writes itself: Slurm forgets finished jobs, a requeued
job must not look finished, and Ray's history goes with its head. Each stretch of a job (a requeue starts a new one) has
a folder of its own, so that yesterday's notice to stop cannot stop today's:

    folder/job.json                      the job that counts
    folder/exit.json                     {id, code, ended_at}: it has ended
    folder/log.txt                       what all stretches printed, appended
    folder/attempts/ID/cancelled         a user ended the job: it is not to be resumed
    folder/attempts/ATTEMPT/stop         told to stop; ranks poll it
    folder/attempts/ATTEMPT/rank-N.json  {rank, code, ...}: this rank has ended
"""

import fcntl
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from cluster.config import ClusterConfig
from cluster.errors import ClusterError
from cluster.records import read_json, write_json

EXIT_STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: stopped on notice after a save; run it again and it goes on."""


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """All that a launcher needs; equal specs give equal command lines and batch scripts."""

    name: str
    """Shown by squeue and the Ray dashboard."""
    command: tuple[str, ...]
    """Arguments after the Python executable, run by every rank: ("-m", "pipeline.cli", "train", "run.yaml")."""
    folder: Path
    """Where log and records live: absolute, and on a file system that all nodes share. One job at a time."""
    nodes: int = 1
    processes_per_node: int = 1
    gpus_per_node: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    """Set for every rank, on top of the environment that the launcher gives."""
    grace_s: int = 120
    """Seconds from a notice to stop by `cancel` to the kill."""
    python: str = sys.executable
    """The same path on every node."""
    workdir: Path = field(default_factory=Path.cwd)
    """Where the ranks start, so that relative paths in `command` hold."""

    def __post_init__(self) -> None:
        assert self.folder.is_absolute(), f"a job's folder must mean the same on every node: {self.folder}"

    @property
    def world_size(self) -> int:
        return self.nodes * self.processes_per_node


class JobState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    """Ended on notice or taken away by the cluster; submit it again and it goes on from its last checkpoint."""
    CANCELLED = "cancelled"
    """A user ended it. What it saved is still there, but nobody should start it again unasked."""
    UNKNOWN = "unknown"
    """It left no record and its launcher cannot say (or cannot be reached just now)."""

    @property
    def is_alive(self) -> bool:
        """Whether it runs or may yet run, so that a second one must not be started."""
        return self in (JobState.PENDING, JobState.RUNNING)


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A submitted job, stored as folder/job.json: enough to find it again from another process, on another day."""

    launcher: str
    id: str
    name: str
    folder: Path
    submitted_at: float
    """Unix time in seconds."""
    handle: Mapping[str, str] = field(default_factory=dict)
    """What only its launcher understands: host, pid and start time (local), address (Ray)."""

    @property
    def attempt(self) -> Path:
        """The folder of the job's only stretch; Slurm, which may requeue, names stretches ID.RESTARTS instead."""
        return attempt_folder(self.folder, self.id)


class Launcher(Protocol):
    """The seam between headrace and who starts its processes.

    It is this narrow so that the scheduler can be killed and started again anywhere: it keeps no handle on a job but
    the record, and all four calls may come from a process that did not submit. A new launcher is one file with these
    four methods and one line in `LAUNCHERS`.
    """

    def submit(self, spec: JobSpec) -> JobRecord:
        """Starts the job, or finds the living one that `spec.folder` records: never a second beside it. Returns once
        the record is stored. Raises ClusterMistake if the spec cannot run here or the cluster refuses it."""

    def state(self, record: JobRecord) -> JobState:
        """Where the job stands now."""

    def cancel(self, record: JobRecord) -> None:
        """Tells all ranks to save and stop, and returns at once; what does not stop within the grace is killed.
        Does nothing to a job that has ended."""

    def logs(self, record: JobRecord, *, follow: bool = False) -> Iterator[str]:
        """What the job's folder has logged, line by line; with `follow` until the job has ended."""


def _import(module: str, launcher: str) -> Callable[[ClusterConfig], Launcher]:
    """Builds a launcher whose module is loaded on first use: planning must not pay for Ray."""

    def build(config: ClusterConfig) -> Launcher:
        made: Launcher = getattr(importlib.import_module(module), launcher)(config)
        return made

    return build


LAUNCHERS: Mapping[str, Callable[[ClusterConfig], Launcher]] = {
    "local": _import("cluster.local", "LocalLauncher"),
    "slurm": _import("cluster.slurm", "SlurmLauncher"),
    "ray": _import("cluster.ray_jobs", "RayLauncher"),
}


def launcher_for(config: ClusterConfig) -> Launcher:
    return LAUNCHERS[config.launcher](config)


def launcher_of(record: JobRecord, config: ClusterConfig) -> Launcher:
    """The launcher that a job was sent with, whatever the config says by now."""
    return LAUNCHERS[record.launcher](config)


def attempt_folder(folder: Path, attempt: str) -> Path:
    return folder / "attempts" / attempt


def log_file(folder: Path) -> Path:
    return folder / "log.txt"


def stop_file(attempt: Path) -> Path:
    return attempt / "stop"


def store_job(record: JobRecord) -> None:
    """Makes this the job of its folder."""
    values = asdict(record)
    del values["folder"]  # a record lies in its folder; a moved workspace must not point back to the old place
    write_json(record.folder / "job.json", values)


def load_job(folder: Path) -> JobRecord | None:
    """The folder's job, or None if none was ever submitted."""
    values = read_json(folder / "job.json")
    if values is None:
        return None
    expected = {item.name for item in fields(JobRecord)} - {"folder"}
    if values.keys() != expected:
        raise ClusterError(f"{folder / 'job.json'} is not a JobRecord: it has {sorted(values)}, not {sorted(expected)}")
    return JobRecord(folder=folder, **values)


def store_exit(folder: Path, job_id: str, code: int) -> None:
    """Says that the job has ended, once and for all. A requeue must come instead of this, never after it."""
    write_json(folder / "exit.json", {"id": job_id, "code": code, "ended_at": time.time()})


def load_exit(record: JobRecord) -> int | None:
    """The job's exit code, or None if it has not recorded its end."""
    values = _read_exit(record)
    return int(values["code"]) if values is not None else None


def ended_at(record: JobRecord) -> float | None:
    """Unix time in seconds at which the job ended, or None if it has not recorded that."""
    values = _read_exit(record)
    return float(values["ended_at"]) if values is not None and "ended_at" in values else None


def _read_exit(record: JobRecord) -> dict[str, Any] | None:
    """An earlier job's record does not count."""
    values = read_json(record.folder / "exit.json")
    return values if values is not None and values["id"] == record.id else None


def ended_state(code: int, *, cancelled: bool) -> JobState:
    """What an exit code means. A job that was done before `cancel` reached it has succeeded."""
    if code == 0:
        return JobState.SUCCEEDED
    if cancelled:
        return JobState.CANCELLED
    return JobState.STOPPED if code == EXIT_STOPPED else JobState.FAILED


def cancelled_file(record: JobRecord) -> Path:
    """Its presence says that a user ended the job."""
    return record.attempt / "cancelled"


def cancel_by_file(record: JobRecord) -> None:
    """Cancels a job of one stretch; the mark comes first, so that whoever sees the notice sees why it came."""
    record.attempt.mkdir(parents=True, exist_ok=True)
    cancelled_file(record).touch()
    stop_file(record.attempt).touch()


@contextmanager
def submit_lock(folder: Path) -> Iterator[int]:
    """Lets one submitter at a time decide whether the folder needs a new job. Yields the lock's file descriptor."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "submit.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def living_job(folder: Path, launcher: Launcher) -> JobRecord | None:
    """The folder's job if it waits or runs, so that no second one must be started."""
    job = load_job(folder)
    return job if job is not None and launcher.state(job).is_alive else None


def read_log(folder: Path, *, more: Callable[[], bool], poll_s: float = 0.3) -> Iterator[str]:
    """The lines of the folder's log; at its end it waits for as long as `more` says that some may come."""
    path = log_file(folder)
    while not path.exists():
        if not more():
            return
        time.sleep(poll_s)
    with path.open(errors="replace") as file:
        rest = ""
        while True:
            # Asked before reading: what was written before the job ended is then surely read.
            alive = more()
            while line := file.readline():
                rest += line
                if rest.endswith("\n"):
                    yield rest.rstrip("\n")
                    rest = ""
            if not alive:
                break
            time.sleep(poll_s)
        if rest:
            yield rest
