"""Which checkpoint a run goes on from: the newest of both tiers whose files all hold.

    steps here, steps at the remote ──candidates──> one after the other, the newest first
        here       every rank verifies its share of the files
        remote     every rank fetches its share, each file verified on its way
    the first that holds is the one; what does not is set aside and named

Every rank goes through the search, and all take each turn of it together.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.world import World
from data_prep.errors import DataError
from pipeline.errors import CorruptCheckpoint, PipelineError
from pipeline.notice import GoOn, go_on
from pipeline.remote import Damaged, RemoteFolder
from pipeline.train.checkpoint import dealt, read_checkpoint, set_aside, step_folders, verify_files
from pipeline.train.collectives import from_all, from_main
from pipeline.train.stored import note_upload, remote_steps
from pipeline.train.tiers import Ahead, commit_fetched, fetch_files, offered
from pipeline.workspace import RunFolder


@dataclass(frozen=True, kw_only=True)
class Newest:
    """The newest checkpoint whose files all hold, in the workspace by now, and what there was to say on the way to
    it."""

    step: int | None
    damaged: tuple[str, ...] = ()
    """What had to be passed over."""
    doubts: tuple[str, ...] = ()
    """Why there may be a newer one that is as good."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A checkpoint that may be gone on from, if it holds."""

    step: int
    is_here: bool
    """In the workspace; else at the remote."""


def candidates(here: Iterable[int], there: Iterable[int]) -> list[Candidate]:
    """The best first: a newer step before an older, and of two copies the one that need not be fetched."""
    found = [
        Candidate(step=step, is_here=is_here) for is_here, steps in ((True, here), (False, there)) for step in steps
    ]
    return sorted(found, key=lambda one: (one.step, one.is_here), reverse=True)


def newest_good(
    run: RunFolder,
    remote: RemoteFolder | None,
    world: World,
    *,
    between: GoOn = go_on,
    warn: Callable[[str], None] = lambda problem: None,
) -> Newest:
    """Searches both tiers; to be called by all ranks. `between` is called before each file, and behind the last;
    `warn` with what is damaged as soon as it is passed over, for the search may end in a notice.

    A folder here that does not hold is renamed `*.corrupt`, so that its step can be saved anew. One without a record is
    bad too: a commit renames the folder with its record in it. Raises PipelineError, and sets nothing aside, if a file
    cannot be read; DataError if the store does not answer and the workspace has none to go on from.
    """
    damaged: list[str] = []
    unknown: PipelineError | DataError | None = None
    """Why the remote's are no longer asked for."""
    here = from_main(lambda: step_folders(run.checkpoints), world)
    try:
        there = from_main(lambda: remote_steps(remote) if remote is not None else [], world)
    except DataError as error:
        there, unknown = [], error
    for candidate in candidates(here, there):
        step = candidate.step
        try:
            if candidate.is_here:
                verify_together(run.checkpoint(step), world, between=between)
            elif remote is None or unknown or not fetch_together(run, remote, step, world, between=between):
                continue
            from_all(between, world)
            return Newest(step=step, damaged=tuple(damaged), doubts=_doubts(unknown, step))
        except CorruptCheckpoint as error:
            warn(str(error))
            damaged.append(str(error))
            from_main(partial(set_aside, run.checkpoint(step), "corrupt"), world)
        except Damaged as error:
            warn(problem := f"{error}; use another checkpoint")
            damaged.append(problem)
        except (Ahead, DataError) as error:
            unknown = error
    if isinstance(unknown, DataError):
        raise unknown
    return Newest(step=None, damaged=tuple(damaged), doubts=_doubts(unknown, None))


def _doubts(unknown: PipelineError | DataError | None, step: int | None) -> tuple[str, ...]:
    if isinstance(unknown, DataError):
        return (f"{unknown}; whether it has a checkpoint newer than step {step} is not known",)
    return (str(unknown),) if unknown else ()


def verify_together(path: Path, world: World, *, between: GoOn = go_on) -> None:
    """Compares all files of a checkpoint with its record, each by one rank. Raises as `verify_checkpoint`.

    What another rank finds damaged is looked at again by rank 0: one machine with bad memory, or with an old view of
    a shared file system, must not condemn a checkpoint.
    """
    checkpoint = from_main(lambda: read_checkpoint(path), world)
    shares = dealt(checkpoint.files, world.size)

    def look() -> str:
        try:
            verify_files(path, shares[world.rank], between=between)
        except CorruptCheckpoint as error:
            return str(error)
        return ""

    found = from_all(look, world)
    if found[0]:
        raise CorruptCheckpoint(found[0])
    if (rank := next((rank for rank, problem in enumerate(found) if problem), None)) is not None:
        from_main(lambda: verify_files(path, shares[rank], between=between), world)
        raise PipelineError(
            f"{found[rank]}, says rank {rank}, but rank 0 finds it whole: that rank's machine is at fault, or sees an "
            "old state of the file system; run it again, and without that machine if it says so again"
        )


def fetch_together(run: RunFolder, remote: RemoteFolder, step: int, world: World, *, between: GoOn = go_on) -> bool:
    """Brings a checkpoint here, each file by one rank; False if there is none to bring. Raises Damaged and Ahead."""
    try:
        checkpoint = from_main(partial(offered, remote, run, step), world)
        if checkpoint is None:
            return False
        share = dealt(checkpoint.files, world.size)[world.rank]
        from_all(partial(fetch_files, remote, run, step, share, between=between), world)
        from_main(partial(commit_fetched, run, step), world)
        return True
    except Damaged:
        # Begun and not done: when its step is saved again, its files are sent again whatever its record says.
        from_main(partial(note_upload, run, remote, step, done=False), world)
        raise
