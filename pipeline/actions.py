"""What `headrace run` does next: a pure function of what is there.

State ──next_actions──> Prepare | Train | Evaluate | Promote | Prune | PruneRemote | GiveUp
"""

from dataclasses import dataclass
from typing import TypeAlias

from cluster.job import JobState
from pipeline.promote.retention import checkpoints_to_delete, local_to_delete, set_aside_to_delete


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
    set_aside: tuple[str, ...] = ()
    """Names of the folders of checkpoints that were damaged, or that a rollback went back behind."""
    half_deleted: tuple[str, ...] = ()
    """Names of the folders that a crash inside a deletion has left."""
    keep_local: int | None = None
    """Of these, how many the workspace keeps of what the remote has; None is all."""
    uploaded: frozenset[int] = frozenset()
    """Steps that this workspace has stored at the remote."""
    doubted: frozenset[int] = frozenset()
    """Steps of which the remote may still have what was set aside here."""
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
    set_aside: tuple[str, ...] = ()
    half_deleted: tuple[str, ...] = ()
    """To go first: a step may have been saved anew since, and its deletion needs the name."""


@dataclass(frozen=True)
class PruneRemote:
    steps: tuple[int, ...]


@dataclass(frozen=True)
class GiveUp:
    """Training failed, and starting it again would fail the same way."""


Action: TypeAlias = Prepare | Train | Evaluate | Promote | Prune | PruneRemote | GiveUp


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
    kept = {*pending, *state.protected}
    outdated = local_to_delete(state.saved, state.keep_last, state.keep_local, kept, state.uploaded)
    # By its folder here a checkpoint is known that must not come back from the remote.
    set_aside = set_aside_to_delete(state.set_aside, state.protected | state.doubted)
    if outdated or set_aside or state.half_deleted:
        actions.append(Prune(outdated, set_aside, state.half_deleted))
    if outdated := checkpoints_to_delete(state.uploaded, state.keep_last, kept):
        actions.append(PruneRemote(outdated))
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
