"""The guard: knows a step that harms the run, goes back behind it, and finds out whether data or a machine did it.

    a step's figures ──verdict──> good
                          └─────> bad ──> roll back, and train on the same data once more
                                             ├──> good: a machine was at fault; go on
                                             └──> bad again: the data is; roll back, leave it out for good, go on

What is unusual: the verdict is on figures that all ranks have from one all-reduce, so that they need no second one to
agree; the figures that it compares with are read back from the journal's unbroken curve, so a resume does not blind it;
and a rollback is nothing but a resume. Its record is written before, so a crash at any instant of it loses nothing:
either the record is there and the resume obeys it, or the harm comes again and is seen again.
"""

import math
import shutil
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cluster.world import World
from data_prep.files import read_record, write_record
from pipeline.batches import Batches
from pipeline.config import GuardConfig, RunConfig
from pipeline.data.order import Order
from pipeline.data.position import Window
from pipeline.errors import PipelineError
from pipeline.monitor.journal import read_from, unbroken
from pipeline.train.checkpoint import steps_saved
from pipeline.workspace import RunFolder

MAD_TO_DEVIATION = 1.4826
"""Of a normal distribution: its standard deviation over its median absolute deviation (Hampel, 1974)."""
LEAST_DEVIATION = 0.01
"""Of the median: no deviation counts as less, or a curve that has become flat would be all spikes."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is judged of a step."""

    loss: float
    grad_norm: float
    """Before clipping."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    kind: Literal["good", "nonfinite", "loss_spike", "grad_norm_spike"]
    why: str = ""


def verdict(history: Sequence[Figures], step: int, loss: float, grad_norm: float, config: GuardConfig) -> Verdict:
    """Judges a step by the good ones before it, as many as there are of the last `window_steps`."""
    for name, value in (("loss", loss), ("gradient norm", grad_norm)):
        if not math.isfinite(value):
            return Verdict(kind="nonfinite", why=f"the {name} of step {step} is {value}")
    recent = list(history)[-config.window_steps :]
    if 2 * len(recent) < config.window_steps:
        return Verdict(kind="good")
    if why := above([one.loss for one in recent], loss, config.loss_deviations):
        return Verdict(kind="loss_spike", why=f"the loss of step {step} is {why}")
    if why := above([one.grad_norm for one in recent], grad_norm, config.grad_norm_deviations):
        return Verdict(kind="grad_norm_spike", why=f"the gradient norm of step {step} is {why}")
    return Verdict(kind="good")


def above(recent: Sequence[float], value: float, most: float) -> str:
    """How far a value lies above the recent ones, in words, if it is more than `most` robust deviations; empty if
    not, or if `most` is 0."""
    median = statistics.median(recent)
    mad = statistics.median(abs(one - median) for one in recent)
    deviation = max(MAD_TO_DEVIATION * mad, LEAST_DEVIATION * abs(median))
    if not most or value - median <= most * deviation:
        return ""
    return f"{value:.4g}, {(value - median) / deviation:.0f} deviations above the median {median:.4g} of {len(recent)}"


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Steps, counted from 1, that are being trained on the same data a second time."""

    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class GuardState:
    """`guard.json` of a run: all that a rollback leaves behind."""

    skipped: tuple[Window, ...] = ()
    """What the order of the data leaves out."""
    rollbacks: int = 0
    replay: Replay | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    kind: Literal["go_on", "hardware", "replay", "skip", "give_up"]
    first: int = 0
    """Of the steps, counted from 1, that are trained again or whose data is left out."""
    last: int = 0
    why: str = ""

    @property
    def rolls_back(self) -> bool:
        return self.kind in ("replay", "skip")


def decide(state: GuardState, found: Verdict, step: int, config: GuardConfig) -> Decision:
    """What a verdict on a step leads to."""
    replay = state.replay
    if found.kind == "good":
        if replay is None or step < replay.last:
            return Decision(kind="go_on")
        why = f"steps {replay.first} to {replay.last} are good on the same data"
        return Decision(kind="hardware", first=replay.first, last=replay.last, why=why)
    if state.rollbacks >= config.max_rollbacks:
        return Decision(kind="give_up", first=step, last=step, why=found.why)
    if replay is not None and replay.first <= step <= replay.last:
        return Decision(kind="skip", first=replay.first, last=replay.last, why=f"{found.why}, for the second time")
    return Decision(kind="replay", first=max(1, step + 1 - config.skip_steps), last=step, why=found.why)


class Guard:
    """Judges one step after the other. Every rank has its own, with the same state, and comes to the same decisions."""

    def __init__(self, config: GuardConfig, state: GuardState, history: Sequence[Figures]) -> None:
        self.state = state
        self._config = config
        self._history = deque(history, maxlen=config.window_steps)

    def judge(self, step: int, figures: Figures) -> Decision:
        """What to do after a step, counted from 1."""
        found = verdict(self._history, step, figures.loss, figures.grad_norm, self._config)
        decision = decide(self.state, found, step, self._config)
        if decision.kind == "hardware":
            self.state = replace(self.state, replay=None)
        if found.kind == "good":
            self._history.append(figures)
        return decision


def read_guard(path: Path) -> GuardState:
    """The state that a run's guard has left, or the first one."""
    return read_record(GuardState, path) if path.exists() else GuardState()


def act(
    decision: Decision,
    state: GuardState,
    config: RunConfig,
    run: RunFolder,
    order: Order,
    documents: Callable[[range], dict[str, list[str]]],
    world: World,
    tell: Callable[..., None],
) -> None:
    """Says what was decided, with the documents behind it, and leaves for the next resume what it must know.

    `documents` gives ids by source for steps counted from 1. Raises PipelineError, on all ranks, to give up.
    """
    if world.is_main:
        record(decision, state, run, order, config.batches, documents, tell)
    if decision.kind == "give_up":
        raise PipelineError(
            f"run {config.name}: {decision.why}, after {state.rollbacks} rollbacks; the checkpoints before it are "
            "intact. Lower train.optimizer.lr under a new name, or raise train.guard.max_rollbacks to go on"
        )


def record(
    decision: Decision,
    state: GuardState,
    run: RunFolder,
    order: Order,
    batches: Batches,
    documents: Callable[[range], dict[str, list[str]]],
    tell: Callable[..., None],
) -> None:
    """Rank 0's part: to say it, and to make the next resume one from behind a rollback's first step."""
    if decision.rolls_back:
        kept = set_aside(run.checkpoints, decision.first, state.rollbacks + 1)
        decision = replace(decision, first=max(decision.first, kept + 1))
    steps = range(decision.first, decision.last + 1)
    tell(
        "guard",
        verdict=decision.kind,
        step=decision.last,
        first=decision.first,
        last=decision.last,
        why=decision.why,
        problem=f"{decision.why}: {SAID[decision.kind]}",
        documents={} if decision.kind == "hardware" else documents(steps),
    )
    if decision.kind == "hardware":
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
