"""`headrace run`: a reconcile loop over files, from raw text to a promoted checkpoint.

    observe ──> State ──next_actions──> Prepare | Train | Evaluate | Promote | Prune ──perform──> files ──> observe ...

The loop keeps nothing that it could not read back: what is done is what has its record. So it can be killed at any
instant and started again, by whoever; the training job lives in a session of its own and is found again. Each action is
idempotent, and runs in a process of its own where it is heavy, so that a crash there is not a crash here.
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.job import JobRecord, JobSpec, JobState, Launcher, launcher_for, launcher_of, load_exit, load_job
from cluster.signals import StopNotice
from data_prep.errors import DataError
from pipeline.actions import (
    Evaluate,
    GiveUp,
    Prepare,
    Promote,
    Prune,
    PruneRemote,
    State,
    Train,
    is_trained,
    may_live,
    next_actions,
)
from pipeline.children import POLL_S, Evaluation, prepare
from pipeline.config import RunConfig
from pipeline.durable import bring_pins, remote_run
from pipeline.errors import CorruptCheckpoint, GateRefused, Mistake, PipelineError, StoppedOnNotice
from pipeline.last_words import last_words
from pipeline.locks import locked
from pipeline.monitor.views import Scoring, wandb_view
from pipeline.notice import unless_told
from pipeline.observe import digest_of, observe
from pipeline.promote.registry import AliasMoved
from pipeline.promote.stage import promote_step
from pipeline.runs import check_config, read_state, run_id
from pipeline.train.checkpoint import steps_saved
from pipeline.train.stored import remove_stored, uploaded_steps
from pipeline.train.upload import upload_checkpoint
from pipeline.train.writer import take_over
from pipeline.workspace import DELETING_SUFFIX, RunFolder, Workspace

UNSEEN_S = 600.0
"""How long a launcher may not know of a job: Slurm's controller restarts in minutes."""


def run(config: RunConfig, workspace: Workspace, command: Sequence[str], watch: Callable[[Scoring], None]) -> bool:
    """Drives a run to its end. Gives whether there was anything to do.

    `command` are the words that give this config to another headrace process: the YAML file and the overrides. `watch`
    is called between looks, with how far the evaluations are. Raises PipelineError if training fails for good,
    StoppedOnNotice after a notice to stop.
    """
    folder = workspace.run(config.name)
    launcher = launcher_for(config.cluster)
    busy = f"{folder.path} is being driven by another `headrace run`; watch it with: headrace status CONFIG"
    with locked(folder.path / "run.lock", busy=busy), StopNotice(ctrl_c="once") as notice, stopped_with(config, folder):
        folder.stop.unlink(missing_ok=True)  # it was meant for an earlier start
        notice.watch(folder.stop)
        bring_pins(config, workspace)
        if (pinned := read_state(folder)) is not None:
            check_config(config, pinned)  # or a run that is trained would seem to be done
        ours = _living_job(config, folder)
        evaluation, patience = Evaluation(command), Patience(config.name)
        worked = False
        while True:
            evaluation.poll()
            state = observe(config, workspace, ours, launcher, failed=evaluation.failed)
            state = replace(state, evaluating=evaluation.step)
            if notice.requested():
                evaluation.end()
                stop(config, ours, launcher)
            if state.job is JobState.CANCELLED and not is_trained(state):
                evaluation.end()
                raise StoppedOnNotice(f"run {config.name}: its training was cancelled; run it again to resume")
            actions = next_actions(state)
            for action in actions:
                if notice.requested():
                    break
                worked = True
                match action:
                    case Prepare():
                        prepare(command, notice)
                    case Train():
                        ours = launcher.submit(training_job(config, folder, command))
                    case Evaluate(step):
                        if digest := digest_of(folder, step):
                            evaluation.start(step, digest)
                    case Promote(step):
                        _promote(config, workspace, step, notice)
                    case Prune():
                        prune_all(folder, action)
                    case PruneRemote(steps):
                        prune_remote(config, folder, steps)
                    case GiveUp():
                        kind = Mistake if ours and load_exit(ours) == Mistake.exit_code else PipelineError
                        raise kind(f"run {config.name}: training failed: {last_words(folder)}")
            watch(scoring(state))
            if not actions:
                if not may_live(state.job) and evaluation.step is None:
                    break
                patience.look(state.job)
                time.sleep(POLL_S)
        if state.failed:
            which = ", ".join(map(str, sorted(state.failed)))
            raise PipelineError(
                f"run {config.name}: the evaluation of step {which} failed, see above; run it again to retry"
            )
        worked = store_last(config, folder) or worked
        if worked:
            send_to_wandb(config, folder)
        return worked


def scoring(state: State) -> Scoring:
    """What is worth seeing of the evaluations."""
    return Scoring(
        step=state.evaluating,
        done=len(state.evaluated.intersection(state.saved)),
        total=len(state.saved),
        beside_training=may_live(state.job),
    )


@contextmanager
def stopped_with(config: RunConfig, folder: RunFolder) -> Iterator[None]:
    """The first Ctrl-C is a notice. A second one leaves at once, and the local job is told to stop all the same: nobody
    would know of it any more."""
    try:
        yield
    except KeyboardInterrupt:
        job, launcher = load_job(folder.job), launcher_for(config.cluster)
        if config.cluster.launcher == "local" and job and launcher.state(job).is_alive:
            launcher.cancel(job)
            print(f"headrace: run {config.name}: job {job.id} is told to save and stop", file=sys.stderr, flush=True)
        raise


def store_last(config: RunConfig, folder: RunFolder) -> bool:
    """Stores the checkpoint that a run ended with, if training could not: no later start of it would. Gives whether
    there was anything to store. Raises DataError if the store stays away."""
    remote, saved = remote_run(config), steps_saved(folder.checkpoints)
    if remote is None or not saved or saved[-1] in uploaded_steps(folder, remote):
        return False
    return upload_checkpoint(folder, remote, saved[-1], writer=take_over(remote)) is not None


def send_to_wandb(config: RunConfig, folder: RunFolder) -> None:
    """What came after training had closed its own view: the last evaluations and promotions."""
    state = read_state(folder)
    if state is not None:
        wandb_view(config, folder, run_id(config, state.manifest_digest)).close()


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
        print(f"headrace: run {config.name}: told to stop; its training saves first", file=sys.stderr, flush=True)
        while launcher.state(job).is_alive:
            time.sleep(POLL_S)
    raise StoppedOnNotice(f"run {config.name}: stopped on notice; run it again to resume")


def prune_all(folder: RunFolder, doomed: Prune) -> None:
    for name in doomed.half_deleted:
        shutil.rmtree(folder.checkpoints / name)
    for step in doomed.steps:
        prune(folder.checkpoint(step))
    for name in doomed.set_aside:
        prune(folder.checkpoints / name)


def prune(checkpoint: Path) -> None:
    """Deletes a checkpoint so that a crash half-way leaves none that looks whole; nothing if it is gone, as one that a
    rollback has set aside meanwhile."""
    doomed = checkpoint.with_name(f".{checkpoint.name}{DELETING_SUFFIX}")
    try:
        checkpoint.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed)


def prune_remote(config: RunConfig, folder: RunFolder, steps: Sequence[int]) -> None:
    """Deletes checkpoints at the remote. A store that stays away costs its space, not the run."""
    remote = remote_run(config)
    for step in steps:
        try:
            if remote is not None:
                remove_stored(folder, remote, step)
        except (DataError, Mistake) as error:
            print(f"headrace: {error}; step {step} stays at the remote", file=sys.stderr)


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


def _promote(config: RunConfig, workspace: Workspace, step: int, notice: StopNotice) -> None:
    """A refusal is a decision like any other; whoever moved the alias meanwhile is taken into account on the next
    look, and so are a notice and a rollback that has set the checkpoint aside."""
    with suppress(GateRefused, AliasMoved, StoppedOnNotice):
        try:
            promote_step(config, workspace, step, between=unless_told(notice, "a checkpoint was verified"))
        except CorruptCheckpoint:
            if workspace.run(config.name).checkpoint(step).exists():
                raise
