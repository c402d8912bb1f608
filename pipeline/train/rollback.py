"""What follows when the guard finds a step bad: it is said, and the next resume begins behind it.

    decision, guard's state, steps saved ──consequences──> checkpoints to set aside, what is said, guard's new state

A rollback's record is written before anything is loaded, and after the checkpoints that it sets aside are; so a crash
or a power cut at any instant of it loses nothing: either the record is there and the resume obeys it, or the harm comes
again and is seen again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.files import write_record
from pipeline.batches import Batches
from pipeline.data.order import Order
from pipeline.data.trace import document_ids
from pipeline.errors import PipelineError
from pipeline.monitor.journal import read_from, unbroken
from pipeline.train.checkpoint import set_aside, steps_saved
from pipeline.train.collectives import from_main
from pipeline.train.guard import Decision, Figures, GuardState, Replay
from pipeline.train.training import Training


def act(training: Training, decision: Decision, state: GuardState, order: Order) -> None:
    """Says what was decided, with the documents behind it, and leaves for the next resume what it must know.

    Raises PipelineError, on all ranks, to give up.
    """
    from_main(lambda: record(training, decision, state, order), training.world)
    if decision.kind == "give_up":
        raise PipelineError(
            f"run {training.config.name}: {decision.why}, after {state.rollbacks} rollbacks; the checkpoints before it "
            "are intact. Lower train.optimizer.lr under a new name, or raise train.guard.max_rollbacks to go on"
        )


def record(training: Training, decision: Decision, state: GuardState, order: Order) -> None:
    """Rank 0's part: to say it, and to make the next resume one from behind a rollback's first step."""
    run, batches = training.run, training.config.batches
    after = consequences(decision, state, steps_saved(run.checkpoints), order, batches)
    for step in after.set_aside:
        set_aside(run.checkpoint(step), f"rewound-{after.state.rollbacks}")
    decision = after.decision
    steps = range(decision.first, decision.last + 1)
    problem, documents = f"{decision.why}: {SAID[decision.kind]}", {}
    if decision.kind != "hardware":
        try:
            documents = document_ids(training.corpus, training.manifest, order, batches, steps)
        except (PipelineError, OSError) as error:  # a lost sidecar must not keep the run from going back
            problem += f"; which documents it saw cannot be told: {error}"
    training.tell(
        "guard",
        verdict=decision.kind,
        step=decision.last,
        first=decision.first,
        last=decision.last,
        why=decision.why,
        problem=problem,
        documents=documents,
    )
    if decision.kind != "give_up":
        write_record(run.guard, after.state)


SAID = {
    "hardware": "a machine was at fault, not the data; nothing is left out",
    "replay": "going back behind it, to train on the same data once more",
    "skip": "its data is at fault; going back behind it, and leaving that out",
    "give_up": "the run is ended",
}


@dataclass(frozen=True, kw_only=True)
class Consequences:
    decision: Decision
    """Of a rollback, its first step is none that a checkpoint which is left has trained on."""
    set_aside: tuple[int, ...]
    """Steps of the checkpoints that have trained on the decision's first step, the newest first: a crash between two
    leaves no older one missing."""
    state: GuardState
    """The guard's, behind it."""


def consequences(
    decision: Decision, state: GuardState, saved: Sequence[int], order: Order, batches: Batches
) -> Consequences:
    """What a decision leads to where these steps are saved, in ascending order. The oldest checkpoint is always left,
    and if it has trained on some of the steps that the decision names, these stay trained on."""
    if not decision.rolls_back:
        return Consequences(decision=decision, set_aside=(), state=replace(state, replay=None))
    kept = [step for step in saved if step < decision.first] or list(saved[:1])
    decision = replace(decision, first=max(decision.first, kept[-1] + 1))
    return Consequences(
        decision=decision,
        set_aside=tuple(reversed(saved[len(kept) :])),
        state=rolled_back(state, decision, order, batches),
    )


def rolled_back(state: GuardState, decision: Decision, order: Order, batches: Batches) -> GuardState:
    """The state that a rollback leaves."""
    after = replace(state, rollbacks=state.rollbacks + 1, replay=None)
    if decision.kind == "replay":
        return replace(after, replay=Replay(first=decision.first, last=decision.last))
    first = batches.first(decision.first - 1)
    return replace(after, skipped=order.skipping(first, batches.first(decision.last) - first).skipped)


def recent_figures(journal: Path, count: int, since: int = 0) -> list[Figures]:
    """The last `count` steps that led to the present weights, oldest first, and of these the step `since` and later
    ones. Reads only the journal's end, if it tells."""
    size, tail = journal.stat().st_size if journal.exists() else 0, 1000 * count
    while True:
        lines = unbroken(read_from(journal, max(0, size - tail))[0])[-count:]
        if len(lines) == count or tail >= size:
            break
        tail *= 4
    figures = [(line.get("loss"), line.get("grad_norm")) for line in lines if line["step"] >= since]
    return [Figures(loss=loss, grad_norm=norm) for loss, norm in figures if loss is not None and norm is not None]
