"""What of a run's checkpoints is stored at the remote: where it lies, this workspace's notes of it, and its removal.

A stored checkpoint is `checkpoints/step-00000500/` of the run's folder there, with the same files as here. It counts
once its record is there, which is written last and removed first.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.files import read_record, write_record
from pipeline.errors import CorruptCheckpoint
from pipeline.remote import RemoteFolder
from pipeline.train.checkpoint import RECORD_NAME, read_checkpoint
from pipeline.workspace import RunFolder, step_name, step_of


@dataclass(frozen=True, kw_only=True)
class Upload:
    """`uploads/step-00000500.json` of a run: this workspace has stored a checkpoint, or has begun to.

    With it what may be pruned is known without asking the store; and what others have stored is never pruned from here.
    """

    step: int
    done: bool
    remote: str = ""
    """URL of the run's folder in the store. The config may name another by now, which does not have the checkpoint."""


def upload_note(run: RunFolder, remote: RemoteFolder, step: int) -> Upload | None:
    """What was noted of a step at this remote."""
    note = _read_note(run.upload(step))
    return note if note is not None and note.remote == remote.url else None


def uploaded_steps(run: RunFolder, remote: RemoteFolder) -> frozenset[int]:
    """Steps whose checkpoints this workspace has stored at this remote, by its notes."""
    return frozenset(note.step for note in _notes(run) if note.done and note.remote == remote.url)


def doubted_steps(run: RunFolder) -> frozenset[int]:
    """Steps whose name a remote may still have for a checkpoint that was set aside here, or for half of one."""
    return frozenset(note.step for note in _notes(run) if not note.done)


def note_upload(run: RunFolder, remote: RemoteFolder, step: int, *, done: bool) -> None:
    write_record(run.upload(step), Upload(step=step, done=done, remote=remote.url))


def doubt_uploads(run: RunFolder, first: int) -> None:
    """Notes of step `first` and later no longer say that it is stored: a rollback has set these aside, and other ones
    will bear their names."""
    for note in _notes(run):
        if note.step >= first and note.done:
            write_record(run.upload(note.step), replace(note, done=False))


def _notes(run: RunFolder) -> Iterator[Upload]:
    for path in run.uploads.glob("step-*.json"):
        note = _read_note(path)
        if note is not None:
            yield note


def _read_note(path: Path) -> Upload | None:
    """None if there is none: `headrace run` removes notes while training reads them, and the other way round. A torn
    one says nothing either."""
    try:
        return read_record(Upload, path)
    except (FileNotFoundError, ValueError):
        return None


def remote_checkpoint(remote: RemoteFolder, step: int) -> RemoteFolder:
    """Its folder in the run's."""
    return remote.at(f"checkpoints/{step_name(step)}")


def remote_steps(remote: RemoteFolder) -> list[int]:
    """Steps that have a folder in the run's at the remote, the newest first; whether one is whole, its record says."""
    steps = map(step_of, remote.at("checkpoints").names())
    return sorted((step for step in steps if step is not None), reverse=True)


def remote_digest(remote: RemoteFolder, step: int) -> str | None:
    """What the record of a stored checkpoint says that it is, unverified; None if there is no such record."""
    data = remote_checkpoint(remote, step).read(RECORD_NAME)
    try:
        return None if data is None else str(json.loads(data)["digest"])
    except (ValueError, KeyError, TypeError):
        return None


def is_rewound(run: RunFolder, remote: RemoteFolder, step: int, digest: str) -> bool:
    """Whether the remote's checkpoint is one that a rollback has set aside here: it must not come back from there.

    Not if it was stored since: what is trained again from before the bad step may be the same to the last bit.
    """
    note = upload_note(run, remote, step)
    return not (note is not None and note.done) and digest in _set_aside(run.checkpoints)


def _set_aside(checkpoints: Path) -> Iterator[str]:
    """Digests of the checkpoints that rollbacks have set aside."""
    for path in checkpoints.glob("step-*.rewound*"):
        with suppress(CorruptCheckpoint):
            yield read_checkpoint(path).digest


def remove_stored(run: RunFolder, remote: RemoteFolder, step: int) -> None:
    """Removes a stored checkpoint, so that a crash half-way leaves none that looks whole."""
    run.upload(step).unlink(missing_ok=True)
    there = remote_checkpoint(remote, step)
    there.remove(RECORD_NAME)
    there.remove_all()
