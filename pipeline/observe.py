"""Reads off the files where a run stands: all that `next_actions` decides on."""

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from pathlib import Path

from cluster.job import JobRecord, JobState, Launcher
from pipeline.actions import State
from pipeline.config import RunConfig
from pipeline.durable import remote_run
from pipeline.errors import CorruptCheckpoint
from pipeline.evaluate.report import read_report
from pipeline.monitor.journal import read_journal
from pipeline.promote.alias import protected_paths
from pipeline.promote.registry import read_entries
from pipeline.promote.stage import judged_checkpoints
from pipeline.runs import read_state
from pipeline.train.checkpoint import RECORD_NAME, read_checkpoint, steps_saved
from pipeline.train.stored import doubted_steps, uploaded_steps
from pipeline.workspace import DELETING_SUFFIX, RunFolder, Workspace, step_of


def observe(
    config: RunConfig,
    workspace: Workspace,
    job: JobRecord | None,
    launcher: Launcher,
    failed: Collection[str] = (),
) -> State:
    """Reads the state off the files. `failed`: digests of the checkpoints whose evaluation failed."""
    folder = workspace.run(config.name)
    # The job's state first: what it saved before it ended is then surely seen.
    job_state = launcher.state(job) if job else None
    digests = {step: digest for step in steps_saved(folder.checkpoints) if (digest := digest_of(folder, step))}
    saved = tuple(digests)
    judged = judged_checkpoints(config, workspace) if config.promote is not None else frozenset()
    promotes, remote = config.promote is not None, remote_run(config)
    return State(
        has_corpus=has_corpus(config, workspace),
        job=job_state,
        progressed=job is not None and job_state is JobState.FAILED and progressed(folder, job, saved),
        total_steps=config.total_steps,
        saved=saved,
        evaluated=frozenset(step for step in saved if scored_digest(folder, step) == digests[step]),
        evaluates=bool(config.suites),
        decided=frozenset(step for step in saved if digests[step] in judged),
        promotes=promotes,
        protected=protected_steps(config, workspace),
        keep_last=config.train.checkpoint.keep_last,
        set_aside=tuple(path.name for path in folder.checkpoints.glob("step-*.*")),
        half_deleted=tuple(path.name for path in folder.checkpoints.glob(f".step-*{DELETING_SUFFIX}")),
        keep_local=config.train.checkpoint.keep_local,
        uploaded=uploaded_steps(folder, remote) if remote else frozenset(),
        doubted=doubted_steps(folder) if remote else frozenset(),
        failed=frozenset(step for step in saved if digests[step] in failed),
    )


def digest_of(folder: RunFolder, step: int) -> str | None:
    """The digest of a checkpoint; None if its record does not hold, which is as good as no checkpoint."""
    return _read(_digest, folder.checkpoint(step) / RECORD_NAME)


def scored_digest(folder: RunFolder, step: int) -> str | None:
    """The digest of the checkpoint that a step's report is of, which is another one if the step was saved anew."""
    return _read(_reported, folder.report(step, "heldout"))


Stamp = tuple[int, int, int]


def _read(read: Callable[[Path, Stamp], str | None], path: Path) -> str | None:
    """What a record says; None if there is none. It is read again only if it was written again: a report has a line for
    each document, and the scheduler looks thrice a second."""
    try:
        now = path.stat()
    except FileNotFoundError:
        return None
    return read(path, (now.st_ino, now.st_mtime_ns, now.st_size))


@lru_cache(maxsize=10_000)
def _digest(record: Path, stamp: Stamp) -> str | None:
    try:
        return read_checkpoint(record.parent).digest
    except CorruptCheckpoint:
        return None


@lru_cache(maxsize=10_000)
def _reported(report: Path, stamp: Stamp) -> str | None:
    try:
        return read_report(report).checkpoint_digest
    except (FileNotFoundError, ValueError):
        return None


def has_corpus(config: RunConfig, workspace: Workspace) -> bool:
    """A run that has begun trains on the corpus it began with; one that has not needs today's."""
    state = read_state(workspace.run(config.name))
    if state is not None:
        return (workspace.corpora / state.corpus / "manifest.json").is_file()
    from data_prep.plan import find_corpus

    return find_corpus(config.data, workspace.corpora, config.name) is not None


def protected_steps(config: RunConfig, workspace: Workspace) -> frozenset[int]:
    """Steps of this run that an alias points to or may be rolled back to, in any model's registry."""
    checkpoints = workspace.run(config.name).checkpoints
    steps = set()
    for registry in (workspace.path / "registry").glob("*/"):
        for path in protected_paths(read_entries(workspace.path, registry.name)):
            step = step_of(Path(path).name)
            if step is not None and (workspace.path / path).parent == checkpoints:
                steps.add(step)
    return frozenset(steps)


def progressed(folder: RunFolder, job: JobRecord, saved: Sequence[int]) -> bool:
    """Whether a job has saved more than what it began with, which makes it worth starting again."""
    begun = [
        line
        for line in read_journal(folder.metrics)
        if line["kind"] in ("start", "resume") and line["time"] >= job.submitted_at
    ]
    return bool(begun and saved) and saved[-1] > begun[0].get("step", 0)
