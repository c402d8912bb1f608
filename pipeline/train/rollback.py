"""What follows when the guard finds a step bad: it is said, and the next resume begins behind it.

A rollback's record is written before anything is loaded, so a crash at any instant of it loses nothing: either the
record is there and the resume obeys it, or the harm comes again and is seen again.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from data_prep.files import write_record
from pipeline.batches import Batches
from pipeline.data.order import Order
from pipeline.data.trace import document_ids
from pipeline.errors import PipelineError
from pipeline.monitor.journal import read_from, unbroken
from pipeline.train.checkpoint import steps_saved
from pipeline.train.guard import Decision, Figures, GuardState, Replay
from pipeline.train.training import Training


def act(training: Training, decision: Decision, state: GuardState, order: Order) -> None:
    """Says what was decided, with the documents behind it, and leaves for the next resume what it must know.

    Raises PipelineError, on all ranks, to give up.
    """
    if training.world.is_main:
        record(training, decision, state, order)
    if decision.kind == "give_up":
        raise PipelineError(
            f"run {training.config.name}: {decision.why}, after {state.rollbacks} rollbacks; the checkpoints before it "
            "are intact. Lower train.optimizer.lr under a new name, or raise train.guard.max_rollbacks to go on"
        )


def record(training: Training, decision: Decision, state: GuardState, order: Order) -> None:
    """Rank 0's part: to say it, and to make the next resume one from behind a rollback's first step."""
    run, batches = training.run, training.config.batches
    if decision.rolls_back:
        kept = set_aside(run.checkpoints, decision.first, state.rollbacks + 1)
        decision = replace(decision, first=max(decision.first, kept + 1))
    steps = range(decision.first, decision.last + 1)
    of_machine = decision.kind == "hardware"
    documents = {} if of_machine else document_ids(training.corpus, training.manifest, order, batches, steps)
    training.tell(
        "guard",
        verdict=decision.kind,
        step=decision.last,
        first=decision.first,
        last=decision.last,
        why=decision.why,
        problem=f"{decision.why}: {SAID[decision.kind]}",
        documents=documents,
    )
    if of_machine:
        write_record(run.guard, replace(state, replay=None))
    elif decision.rolls_back:
        write_record(run.guard, rolled_back(state, decision, order, batches))


SAID = {
    "hardware": "a machine was at fault, not the data; nothing is left out",
    "replay": "going back behind it, to train on the same data once more",
    "skip": "its data is at fault; going back behind it, and leaving that out",
    "give_up": "the run is ended",
}


def rolled_back(state: GuardState, decision: Decision, order: Order, batches: Batches) -> GuardState:
    """The state that a rollback leaves."""
    after = replace(state, rollbacks=state.rollbacks + 1, replay=None)
    if decision.kind == "replay":
        return replace(after, replay=Replay(first=decision.first, last=decision.last))
    first = batches.first(decision.first - 1)
    return replace(after, skipped=order.skipping(first, batches.first(decision.last) - first).skipped)


def set_aside(checkpoints: Path, first: int, rollback: int) -> int:
    """Renames the checkpoints that have trained on step `first`, counted from 1, to `*.rewound-ROLLBACK`, as long as
    another is left. Gives the newest step that is."""
    saved = steps_saved(checkpoints)
    kept = [step for step in saved if step < first] or saved[:1]
    for step in saved[len(kept) :]:
        path = checkpoints / f"step-{step:08d}"
        aside = path.with_name(f"{path.name}.rewound-{rollback}")
        shutil.rmtree(aside, ignore_errors=True)  # of the same rollback, if a crash kept it from being recorded
        path.rename(aside)
    return kept[-1]


def recent_figures(journal: Path, count: int) -> list[Figures]:
    """The last `count` steps that led to the present weights, oldest first. Reads only the journal's end, if it
    tells."""
    size, tail = journal.stat().st_size if journal.exists() else 0, 1000 * count
    while True:
        lines = unbroken(read_from(journal, max(0, size - tail))[0])[-count:]
        if len(lines) == count or tail >= size:
            break
        tail *= 4
    figures = [(line.get("loss"), line.get("grad_norm")) for line in lines]
    return [Figures(loss=loss, grad_norm=norm) for loss, norm in figures if loss is not None and norm is not None]
