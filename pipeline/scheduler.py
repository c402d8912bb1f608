"""`headrace run`: a reconcile loop over files, from raw text to a promoted checkpoint.

    observe ──> State ──next_actions──> Prepare | Train | Evaluate | Promote | Prune ──perform──> files ──> observe ...

The loop keeps nothing that it could not read back: what is done is what has its record. So it can be killed at any
instant and started again, by whoever; the training job lives in a session of its own and is found again. Each action is
idempotent, and runs in a process of its own where it is heavy, so that a crash there is not a crash here.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TypeAlias

from cluster.job import JobRecord, JobSpec, JobState, Launcher, launcher_for, launcher_of, load_job
from cluster.signals import StopNotice
from pipeline.config import RunConfig
from pipeline.errors import GateRefused, Mistake, PipelineError, StoppedOnNotice
from pipeline.locks import locked
from pipeline.monitor.journal import read_journal
from pipeline.monitor.views import wandb_view
from pipeline.promote.alias import protected_paths
from pipeline.promote.registry import AliasMoved, read_entries
from pipeline.promote.retention import checkpoints_to_delete
from pipeline.promote.stage import decided_steps, promote_step
from pipeline.runs import read_state, run_id
from pipeline.train.checkpoint import steps_saved
from pipeline.workspace import RunFolder, Workspace

UNSEEN_S = 600.0
"""How long a launcher may not know of a job: Slurm's controller restarts in minutes."""

POLL_S = 0.3
"""A look at the state costs about a millisecond; a checkpoint's evaluation takes seconds."""


@dataclass(frozen=True, kw_only=True)
class State:
    """All that the next action depends on."""

    has_corpus: bool
    job: JobState | None
    """The training job of this invocation; None if it has none yet."""
    progressed: bool
    """Whether that job has committed a checkpoint since it began."""
    total_steps: int
    saved: tuple[int, ...]
    evaluated: frozenset[int]
    evaluates: bool
    """Whether the config asks for evaluations."""
    decided: frozenset[int]
    promotes: bool
    protected: frozenset[int]
    """Steps that the registry may still need."""
    keep_last: int
    evaluating: int | None = None
    """The step that is being evaluated right now."""
    failed: frozenset[int] = frozenset()
    """Steps whose evaluation failed in this invocation."""


@dataclass(frozen=True)
class Prepare:
    pass


@dataclass(frozen=True)
class Train:
    pass


@dataclass(frozen=True)
class Evaluate:
    step: int


@dataclass(frozen=True)
class Promote:
    step: int


@dataclass(frozen=True)
class Prune:
    steps: tuple[int, ...]


@dataclass(frozen=True)
class GiveUp:
    """Training failed, and starting it again would fail the same way."""


Action: TypeAlias = Prepare | Train | Evaluate | Promote | Prune | GiveUp


def next_actions(state: State) -> tuple[Action, ...]:
    """What to do now, in order; nothing if all is done or if training must go on first.

    Evaluations go one at a time, the oldest checkpoint first, beside training.
    """
    if not state.has_corpus:
        return (Prepare(),)
    actions: list[Action] = []
    if not is_trained(state) and not may_live(state.job):
        actions.append(GiveUp() if state.job is JobState.FAILED and not state.progressed else Train())
    waiting = [step for step in unevaluated(state) if step not in state.failed]
    undecided = undecided_steps(state)
    if undecided:
        actions.append(Promote(undecided[0]))
    elif waiting and state.evaluating is None:
        actions.append(Evaluate(waiting[0]))
    pending = {*unevaluated(state), *undecided}
    if outdated := checkpoints_to_delete(state.saved, state.keep_last, {*pending, *state.protected}):
        actions.append(Prune(outdated))
    # Giving up comes last: what was saved before is still evaluated and promoted.
    return tuple(action for action in actions if not (isinstance(action, GiveUp) and len(actions) > 1))


def is_trained(state: State) -> bool:
    return bool(state.saved) and state.saved[-1] >= state.total_steps


def may_live(job: JobState | None) -> bool:
    """Whether the job runs or might: one that its launcher cannot see just now must not get a second one beside it."""
    return job in (JobState.PENDING, JobState.RUNNING, JobState.UNKNOWN)


def unevaluated(state: State) -> list[int]:
    return [step for step in state.saved if step not in state.evaluated] if state.evaluates else []


def undecided_steps(state: State) -> list[int]:
    """Evaluated checkpoints that the gate has not seen, oldest first. Step 0 is only the measure of where training
    began."""
    if not state.promotes:
        return []
    return [step for step in state.saved if step > 0 and step in state.evaluated and step not in state.decided]


def run(config: RunConfig, workspace: Workspace, command: Sequence[str], watch: Callable[[], None]) -> bool:
    """Drives a run to its end. Gives whether there was anything to do.

    `command` are the words that give this config to another headrace process: the YAML file and the overrides. `watch`
    is called between looks, to show progress. Raises PipelineError if training fails for good, StoppedOnNotice after a
    notice to stop.
    """
    folder = workspace.run(config.name)
    launcher = launcher_for(config.cluster)
    busy = f"{folder.path} is being driven by another `headrace run`; watch it with: headrace status CONFIG"
    with locked(folder.path / "run.lock", busy=busy), StopNotice() as notice, interrupt_as_notice():
        ours = _living_job(config, folder)
        evaluation, patience = Evaluation(command), Patience(config.name)
        worked = False
        while True:
            evaluation.poll()
            state = observe(config, workspace, ours, launcher)
            state = replace(state, evaluating=evaluation.step, failed=frozenset(evaluation.failed))
            if notice.requested():
                evaluation.end()
                stop(config, ours, launcher)
            if state.job is JobState.CANCELLED and not is_trained(state):
                evaluation.end()
                raise StoppedOnNotice(f"run {config.name}: its training was cancelled; run it again to resume")
            actions = next_actions(state)
            for action in actions:
                worked = True
                match action:
                    case Prepare():
                        _prepare(command, notice)
                    case Train():
                        ours = launcher.submit(training_job(config, folder, command))
                    case Evaluate(step):
                        evaluation.start(step)
                    case Promote(step):
                        _promote(config, workspace, step)
                    case Prune(steps):
                        for step in steps:
                            prune(folder.checkpoint(step))
                    case GiveUp():
                        raise PipelineError(f"run {config.name}: training failed; {last_words(folder)}")
            watch()
            if not actions:
                if not may_live(state.job) and evaluation.step is None:
                    break
                patience.look(state.job)
                time.sleep(POLL_S)
        if evaluation.failed:
            which = ", ".join(map(str, sorted(evaluation.failed)))
            raise PipelineError(
                f"run {config.name}: the evaluation of step {which} failed, see above; run it again to retry"
            )
        if worked:
            send_to_wandb(config, folder)
        return worked


def send_to_wandb(config: RunConfig, folder: RunFolder) -> None:
    """What came after training had closed its own view: the last evaluations and promotions."""
    state = read_state(folder)
    if state is not None:
        wandb_view(config, folder, run_id(config, state.manifest_digest)).close()


def observe(config: RunConfig, workspace: Workspace, job: JobRecord | None, launcher: Launcher) -> State:
    """Reads the state off the files."""
    folder = workspace.run(config.name)
    # The job's state first: what it saved before it ended is then surely seen.
    job_state = launcher.state(job) if job else None
    saved = tuple(steps_saved(folder.checkpoints))
    promotes = config.promote is not None
    return State(
        has_corpus=has_corpus(config, workspace),
        job=job_state,
        progressed=job is not None and job_state is JobState.FAILED and progressed(folder, job, saved),
        total_steps=config.total_steps,
        saved=saved,
        evaluated=frozenset(step for step in saved if folder.report(step, "heldout").exists()),
        evaluates=bool(config.evaluate.suites),
        decided=decided_steps(config, workspace) if promotes else frozenset(),
        promotes=promotes,
        protected=protected_steps(config, workspace),
        keep_last=config.train.checkpoint.keep_last,
    )


def has_corpus(config: RunConfig, workspace: Workspace) -> bool:
    """A run that has begun trains on the corpus it began with; one that has not needs today's."""
    state = read_state(workspace.run(config.name))
    if state is not None:
        return (workspace.corpora / state.corpus / "manifest.json").is_file()
    from data_prep.build import find_corpus

    return find_corpus(config.data, workspace.corpora, config.name) is not None


def protected_steps(config: RunConfig, workspace: Workspace) -> frozenset[int]:
    """Steps of this run that an alias points to or may be rolled back to, in any model's registry."""
    checkpoints = workspace.run(config.name).checkpoints
    steps = set()
    for registry in (workspace.path / "registry").glob("*/"):
        for path in protected_paths(read_entries(workspace.path, registry.name)):
            if (workspace.path / path).parent == checkpoints:
                steps.add(int(Path(path).name.removeprefix("step-")))
    return frozenset(steps)


def progressed(folder: RunFolder, job: JobRecord, saved: Sequence[int]) -> bool:
    """Whether a job has saved more than what it began with, which makes it worth starting again."""
    begun = [
        line
        for line in read_journal(folder.metrics)
        if line["kind"] in ("start", "resume") and line["time"] >= job.submitted_at
    ]
    return bool(begun and saved) and saved[-1] > begun[0].get("step", 0)


def training_job(config: RunConfig, folder: RunFolder, command: Sequence[str]) -> JobSpec:
    """The job that trains the run: the same verb on every rank."""
    cluster = config.cluster
    return JobSpec(
        name=f"headrace-{config.name}",
        command=("-m", "pipeline.cli", "train", *command),
        folder=folder.job,
        nodes=cluster.nodes,
        processes_per_node=cluster.processes_per_node,
        gpus_per_node=cluster.gpus_per_node,
        env={"OMP_NUM_THREADS": "1"} if cluster.gpus_per_node == 0 else {},
        grace_s=cluster.grace_s,
    )


def stop(config: RunConfig, job: JobRecord | None, launcher: Launcher) -> None:
    """Ends this invocation. A local job stops with it, after a save; one that a cluster keeps goes on."""
    if job and launcher.state(job).is_alive:
        if config.cluster.launcher != "local":
            raise StoppedOnNotice(
                f"run {config.name}: no longer watched; job {job.id} goes on. End it with: headrace cancel CONFIG"
            )
        launcher.cancel(job)
        while launcher.state(job).is_alive:
            time.sleep(POLL_S)
    raise StoppedOnNotice(f"run {config.name}: stopped on notice; run it again to resume")


def prune(checkpoint: Path) -> None:
    """Deletes a checkpoint so that a crash half-way leaves none that looks whole."""
    import shutil

    doomed = checkpoint.with_name(f".{checkpoint.name}.deleting")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def last_words(folder: RunFolder) -> str:
    """The end of the training log, in one line, and where the rest is."""
    log = folder.job / "log.txt"
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return f"it left no log at {log}"
    ours = [line for line in lines if line.startswith("headrace: ")] or [line for line in lines if "Error" in line]
    return f"{(ours or lines or ['it printed nothing'])[-1]} (all of it: {log})"


@contextmanager
def interrupt_as_notice() -> Iterator[None]:
    """The first Ctrl-C is a notice to stop, so that training can save; the second interrupts at once."""

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _living_job(config: RunConfig, folder: RunFolder) -> JobRecord | None:
    """The job that an earlier invocation left running. What has ended before today is no news: it may be started again.

    Raises Mistake if it runs under another launcher than the config names now.
    """
    job = load_job(folder.job)
    if job is None or not may_live(launcher_of(job, config.cluster).state(job)):
        return None
    if job.launcher != config.cluster.launcher:
        raise Mistake(
            f"cluster.launcher: run {config.name} still has job {job.id} on {job.launcher}; "
            "wait for it or cancel it first"
        )
    return job


@dataclass
class Patience:
    """Ends the wait for a job that its launcher has not been able to see for a while."""

    run: str
    unseen_since: float | None = None

    def look(self, job: JobState | None) -> None:
        """Raises PipelineError after `UNSEEN_S` of UNKNOWN in a row."""
        if job is not JobState.UNKNOWN:
            self.unseen_since = None
        elif self.unseen_since is None:
            self.unseen_since = time.monotonic()
        elif time.monotonic() - self.unseen_since > UNSEEN_S:
            raise PipelineError(
                f"run {self.run}: its launcher has not been able to see its job for {UNSEEN_S / 60:.0f} minutes; "
                "see `headrace status`, and run it again when the cluster answers"
            )


@dataclass
class Evaluation:
    """The one evaluation under way, in a process of its own."""

    command: Sequence[str]
    step: int | None = None
    failed: set[int] = field(default_factory=set)
    _process: subprocess.Popen[str] | None = None

    def start(self, step: int) -> None:
        self.step = step
        self._process = subprocess.Popen(
            _verb("evaluate", self.command, "--step", str(step), "--json"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def poll(self) -> None:
        """Notes it if the evaluation has ended; what a failed one said goes to our stderr."""
        if self._process is None or self._process.poll() is None:
            return
        _, said = self._process.communicate()
        if self._process.returncode:
            assert self.step is not None
            self.failed.add(self.step)
            sys.stderr.write(said)
        self._process, self.step = None, None

    def end(self) -> None:
        """Ends it unfinished. It will be done again: a report is written whole or not at all."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()
            self._process, self.step = None, None


def _verb(verb: str, command: Sequence[str], *options: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", verb, *command, *options]


def _prepare(command: Sequence[str], notice: StopNotice) -> None:
    """Builds the corpus in a process of its own, with its progress on our stderr. Its one-line error is the user's
    answer."""
    process = subprocess.Popen(_verb("prep", command), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if notice.requested():
            process.terminate()
            process.wait()
            raise StoppedOnNotice("stopped on notice while preparing data; run it again and it goes on where it was")
        time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(process.returncode)


def _promote(config: RunConfig, workspace: Workspace, step: int) -> None:
    """A refusal is a decision like any other; whoever moved the alias meanwhile is taken into account on the next
    look."""
    try:
        promote_step(config, workspace, step)
    except (GateRefused, AliasMoved):
        return
