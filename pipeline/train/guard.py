"""The guard: knows a step that harms the run, goes back behind it, and finds out whether data or a machine did it.

    a step's figures ──verdict──> good
                          └─────> bad ──> roll back, and train on the same data once more
                                             ├──> good: a machine was at fault; go on
                                             └──> bad again: the data is; roll back, leave it out for good, go on

What is unusual: the verdict is on figures that all ranks have from one all-reduce, so that they need no second one to
agree; the figures that it compares with are read back from the journal's unbroken curve, so a resume does not blind it;
where the sources' weights change it begins anew, for the loss of another mix may lie anywhere; and a rollback is
nothing but a resume (rollback.py).
"""

import math
import statistics
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data_prep.files import read_record
from pipeline.config import GuardConfig
from pipeline.data.position import Window
from pipeline.errors import Mistake

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

    def __init__(
        self, config: GuardConfig, state: GuardState, history: Sequence[Figures], changes: Collection[int] = ()
    ) -> None:
        """`history`: of the last steps on the same mix of sources. `changes`: the steps that begin another one."""
        self.state = state
        self._config, self._changes = config, changes
        self._history = deque(history, maxlen=config.window_steps)

    def judge(self, step: int, figures: Figures) -> Decision:
        """What to do after a step, counted from 1."""
        if step in self._changes:
            self._history.clear()
        found = verdict(self._history, step, figures.loss, figures.grad_norm, self._config)
        decision = decide(self.state, found, step, self._config)
        if decision.kind == "hardware":
            self.state = replace(self.state, replay=None)
        if found.kind == "good":
            self._history.append(figures)
        return decision


def read_guard(path: Path) -> GuardState:
    """The state that a run's guard has left, or the first one. Raises Mistake if the file is torn or was edited into
    none."""
    try:
        return read_record(GuardState, path) if path.exists() else GuardState()
    except ValueError as error:
        raise Mistake(
            f"{error}; put the one of then back, or remove it: if the newest checkpoint has left data out, the next "
            "start says what to write"
        ) from error
