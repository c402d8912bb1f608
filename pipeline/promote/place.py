"""Where a promoted checkpoint lies. Training that rolls back sets aside what it goes back behind, which may have been
promoted by then: what the registry names is the checkpoint with its digest, wherever it was moved to."""

from pathlib import Path

from pipeline.errors import CorruptCheckpoint, PipelineError
from pipeline.promote.chain import CheckpointRef
from pipeline.train.checkpoint import WEIGHTS_NAME, Checkpoint, read_checkpoint, verify_checkpoint


def folder_of(workspace: Path, checkpoint: CheckpointRef) -> Path:
    """The folder that has it: its own, or one that a rollback of training has made of it. Its own if none has."""
    path = workspace / checkpoint.path
    places = [path, *sorted(path.parent.glob(f"{path.name}.rewound-*"))]
    return next((place for place in places if recorded_digest(place) == checkpoint.digest), path)


def verified_weights(folder: Path, promoted: str | None) -> Checkpoint:
    """A checkpoint's record, its weights compared with it. Raises CorruptCheckpoint, also if the record is not that of
    the checkpoint that was promoted, given its digest."""
    checkpoint = verify_checkpoint(folder, only=[WEIGHTS_NAME])
    if promoted not in (None, checkpoint.digest):
        raise CorruptCheckpoint(f"{folder} is not the checkpoint that was promoted; replay: headrace verify CONFIG")
    return checkpoint


def recorded_digest(folder: Path) -> str | None:
    """What the folder's record says that it is; None if it has no readable one."""
    try:
        return read_checkpoint(folder).digest
    except PipelineError:
        return None
