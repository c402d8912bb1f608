"""A run's two tiers: how a checkpoint comes here from the remote, and what the run has lived through elsewhere.

The remote lags behind, and that is all it may do: what a rollback has set aside here does not come back from there.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from data_prep.errors import DataError
from data_prep.files import parse_record, sync_folder, sync_names, write_atomic, write_record
from pipeline.durable import check_pins
from pipeline.errors import CorruptCheckpoint, PipelineError
from pipeline.monitor.journal import Journal
from pipeline.notice import GoOn, go_on
from pipeline.remote import Damaged, RemoteFolder, plain_path, side_by_side
from pipeline.runs import read_state
from pipeline.train.checkpoint import RECORD_NAME, Checkpoint, FileRecord, read_checkpoint, steps_saved
from pipeline.train.guard import GuardState
from pipeline.train.stored import is_rewound, remote_checkpoint, remote_digest, remote_steps
from pipeline.workspace import RunFolder, step_name


class Ahead(PipelineError):
    """The remote has a checkpoint whose journal is not here."""


def offered(remote: RemoteFolder, run: RunFolder, step: int) -> Checkpoint | None:
    """The record of a checkpoint at the remote that a run may go on from; None if there is none. `remote` is the run's
    folder. Raises Damaged, naming the file, and Ahead."""
    coming = coming_folder(run, step)
    there = remote_checkpoint(remote, step)
    checkpoint = read_remote(there, coming)
    if checkpoint is None:
        return None
    if is_rewound(run, remote, step, checkpoint.digest):
        shutil.rmtree(coming)
        return None
    if not is_caught_up(run, remote):
        raise Ahead(
            f"{remote.url} has a newer checkpoint whose journal was not there when this start took it over: "
            "another job stores there now, or the store was away; end that job, and start again"
        )
    if (checkpoint.run, checkpoint.step) != (run.path.name, step):
        raise Damaged(f"{there.url} holds step {checkpoint.step} of run {checkpoint.run}")
    pins = read_state(run)
    if pins and (checkpoint.config_digest, checkpoint.position.manifest_digest) != (
        pins.config_digest,
        pins.manifest_digest,
    ):
        raise Damaged(f"{there.url} was made by another config or from another corpus")
    for name in checkpoint.files:
        plain_path(name)
    return checkpoint


def fetch_files(
    remote: RemoteFolder, run: RunFolder, step: int, files: Mapping[str, FileRecord], *, between: GoOn = go_on
) -> None:
    """Brings files of a checkpoint here, each verified. What an interrupted call has brought is not asked for again.
    `between` is called before each. Raises Damaged, naming the file."""
    there, coming = remote_checkpoint(remote, step), coming_folder(run, step)

    def fetch(name: str) -> None:
        between()
        there.fetch(name, coming / name, files[name].sha256, files[name].size_bytes)

    side_by_side(fetch, sorted(files))


def commit_fetched(run: RunFolder, step: int) -> None:
    """Gives a checkpoint whose files are all here its name, like one that was saved here."""
    coming = coming_folder(run, step)
    sync_names(coming)
    coming.rename(run.checkpoint(step))
    sync_folder(run.checkpoints)
    for rest in run.checkpoints.glob(".step-*.fetching"):
        shutil.rmtree(rest)


def coming_folder(run: RunFolder, step: int) -> Path:
    return run.checkpoint(step).with_name(f".{step_name(step)}.fetching")


def read_remote(remote: RemoteFolder, coming: Path) -> Checkpoint | None:
    """The record of a checkpoint at the remote, left in the folder too; None if it was never completed there."""
    data = remote.read(RECORD_NAME)
    if data is None:
        return None
    write_atomic(coming / RECORD_NAME, data)
    try:
        return read_checkpoint(coming)
    except CorruptCheckpoint as error:
        shutil.rmtree(coming)
        raise Damaged(f"{remote.url}/{RECORD_NAME} is damaged or torn") from error


def is_caught_up(run: RunFolder, remote: RemoteFolder) -> bool:
    """Whether the journal here has every line of the one there, which is stored before its checkpoint. Without them
    the curve would have a gap, and the data another order than the checkpoint's if the guard has left some out."""
    return not missing_lines(read_bytes(run.metrics), remote.read(run.metrics.name) or b"")


def read_bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def catch_up(run: RunFolder, remote: RemoteFolder) -> None:
    """Takes over what the run has lived through elsewhere, before anything of it is read: if the remote has a newer
    checkpoint than the workspace, then its guard's state and its journal's lines come with it.

    Raises DataError if the store does not answer and the workspace has no checkpoint, Mistake as `check_pins`.
    """
    saved = steps_saved(run.checkpoints)
    try:
        check_pins(run, remote)
        if not is_ahead(run, remote, saved[-1] if saved else None):
            return
        guard, journal = remote.read(run.guard.name), remote.read(run.metrics.name)
    except DataError:
        if not saved:
            raise
        return  # the resume will say it
    if guard is not None:
        try:
            state = parse_record(GuardState, guard, f"{remote.url}/{run.guard.name}")
        except ValueError as error:
            raise PipelineError(f"{error}; put the one of the workspace there that the run was last in") from error
        write_record(run.guard, state)
    if lines := missing_lines(read_bytes(run.metrics), journal or b""):
        with Journal(run.metrics) as ours:
            ours.append_lines(lines)


def is_ahead(run: RunFolder, remote: RemoteFolder, local: int | None) -> bool:
    """Whether the remote has a checkpoint newer than the local one of that step whose record can be read and which no
    rollback here has set aside."""
    newer = (step for step in remote_steps(remote) if local is None or step > local)
    digests = ((step, remote_digest(remote, step)) for step in newer)
    return any(digest is not None and not is_rewound(run, remote, step, digest) for step, digest in digests)


def missing_lines(here: bytes, there: bytes) -> bytes:
    """The whole lines of one journal that another lacks, in their order.

    Lines carry the time, so equal ones are the same. What the other run's journal says comes behind ours, and later
    lines win: the curve becomes that which led to the newer checkpoint, and ours stays as audit.
    """
    known = set(here.split(b"\n"))
    whole = there[: there.rfind(b"\n") + 1].split(b"\n")
    return b"".join(line + b"\n" for line in whole if line and line not in known)
