"""The checkpoints of a run over both tiers: which is the newest good one, and how it comes here.

    local   newest whose files hold ──┐
                                      ├──> the newer one; from the remote it is fetched, every file verified, committed
    remote  newer than that, if any ──┘

The remote lags behind, and that is all it may do: what a rollback has set aside here does not come back from there.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from data_prep.errors import DataError
from data_prep.files import parse_record, sync_folder, sync_names, write_atomic, write_record
from pipeline.durable import check_pins
from pipeline.errors import CorruptCheckpoint, PipelineError
from pipeline.monitor.journal import Journal
from pipeline.notice import GoOn, go_on
from pipeline.remote import Damaged, RemoteFolder, plain_path, side_by_side
from pipeline.runs import read_state
from pipeline.train.checkpoint import RECORD_NAME, Checkpoint, Newest, newest_good, read_checkpoint, steps_saved
from pipeline.train.guard import GuardState
from pipeline.train.stored import is_rewound, note_upload, remote_checkpoint, remote_digest, remote_steps
from pipeline.workspace import RunFolder, step_name


def newest_of_tiers(run: RunFolder, remote: RemoteFolder | None, *, between: GoOn = go_on) -> Newest:
    """The newest checkpoint of both tiers whose files all hold; it is in the workspace then. `between` is called before
    each file.

    Raises DataError if the store does not answer and the workspace has none to go on from.
    """
    local = newest_good(run.checkpoints, between=between)
    if remote is None:
        return local
    damaged = list(local.damaged)
    try:
        there = at_remote(run, remote, local.step)
        if is_ahead(there) and not is_caught_up(run, remote):
            doubt = (
                f"{remote.url} has a newer checkpoint whose journal was not there when this start took it over: "
                "another job stores there now, or the store was away; end that job, and start again"
            )
            return replace(local, doubts=(doubt,))
        for step in there:
            try:
                if fetch_checkpoint(remote, run, step, between=between):
                    return Newest(step=step, damaged=tuple(damaged))
            except Damaged as error:
                damaged.append(f"{error}; use another checkpoint")
                # Begun and not done: when its step is saved again, its files are sent again whatever its record says.
                note_upload(run, remote, step, done=False)
    except DataError as error:
        if local.step is None:
            raise
        doubt = f"{error}; whether it has a checkpoint newer than step {local.step} is not known"
        return replace(local, damaged=tuple(damaged), doubts=(doubt,))
    return replace(local, damaged=tuple(damaged))


def at_remote(run: RunFolder, remote: RemoteFolder, local: int | None) -> dict[int, str | None]:
    """The remote's checkpoints that go before the local one of that step, the newest first: all newer ones but those
    that a rollback here has set aside. Step -> what its record says that it is, None if it says nothing."""
    newer = {step: remote_digest(remote, step) for step in remote_steps(remote) if local is None or step > local}
    return {
        step: digest for step, digest in newer.items() if digest is None or not is_rewound(run, remote, step, digest)
    }


def fetch_checkpoint(remote: RemoteFolder, run: RunFolder, step: int, *, between: GoOn = go_on) -> bool:
    """Brings a checkpoint here, and commits it like one that was saved here; gives False if there is none to bring.
    `remote` is the run's folder.

    What an interrupted call has brought is not asked for again. Raises Damaged, naming the file.
    """
    coming = run.checkpoint(step).with_name(f".{step_name(step)}.fetching")
    there = remote_checkpoint(remote, step)
    checkpoint = read_remote(there, coming)
    if checkpoint is None:
        return False
    if is_rewound(run, remote, step, checkpoint.digest):
        shutil.rmtree(coming)
        return False
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

    def fetch(name: str) -> None:
        between()
        file = checkpoint.files[name]
        there.fetch(name, coming / name, file.sha256, file.size_bytes)

    side_by_side(fetch, sorted(checkpoint.files))
    sync_names(coming)
    coming.rename(run.checkpoint(step))
    sync_folder(run.checkpoints)
    for rest in run.checkpoints.glob(".step-*.fetching"):
        shutil.rmtree(rest)
    return True


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


def is_ahead(there: Mapping[int, str | None]) -> bool:
    """Whether the remote surely has a checkpoint that a resume prefers: one whose record can be read."""
    return any(digest is not None for digest in there.values())


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
        if not is_ahead(at_remote(run, remote, saved[-1] if saved else None)):
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


def missing_lines(here: bytes, there: bytes) -> bytes:
    """The whole lines of one journal that another lacks, in their order.

    Lines carry the time, so equal ones are the same. What the other run's journal says comes behind ours, and later
    lines win: the curve becomes that which led to the newer checkpoint, and ours stays as audit.
    """
    known = set(here.split(b"\n"))
    whole = there[: there.rfind(b"\n") + 1].split(b"\n")
    return b"".join(line + b"\n" for line in whole if line and line not in known)
