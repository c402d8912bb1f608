"""A source's weight over a run: a number, or stages that each begin at a share of the run.

    prose: 0.7                                                       0.0 |          0.8 |        1.0
    code:  [{start: 0, weight: 0.3}, {start: 0.8, weight: 0.1}]  ──>     | 0.7 0.3 0    | 0.7 0.1 0.2
    maths: [{start: 0, weight: 0},   {start: 0.8, weight: 0.2}]

Shares, because a corpus does not know how long its runs are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

BLOCK = 4096
"""Sequences over which a mixture is exact: the grain of a weight is 1/4096, and weights change between two blocks."""


FORBID = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class WeightStage:
    __pydantic_config__ = FORBID

    start: float
    """Where the stage begins, as a share of the run's sequences: the first at 0, each next one later, all before 1."""
    weight: float
    """The source's weight from there on; at 0 nothing of it is trained on."""


Weight: TypeAlias = float | tuple[WeightStage, ...]


@dataclass(frozen=True, kw_only=True)
class Mix:
    """The weights from some share of a run on."""

    start: float
    weights: tuple[float, ...]
    """One a source."""


def mixes(weights: Sequence[Weight]) -> tuple[Mix, ...]:
    """The weights of all sources together, anew wherever one of them changes."""
    starts = {0.0, *(stage.start for weight in weights if isinstance(weight, tuple) for stage in weight)}
    return tuple(Mix(start=start, weights=tuple(weight_at(one, start) for one in weights)) for start in sorted(starts))


def weight_at(weight: Weight, share: float) -> float:
    """A source's weight at a share of the run."""
    return [one.weight for one in weight if one.start <= share][-1] if isinstance(weight, tuple) else weight


def first_blocks(stages: Sequence[Mix], num_sequences: int) -> list[int]:
    """The block that each mix begins with in a run of so many sequences: the one that begins nearest to its share."""
    return [round(mix.start * num_sequences / BLOCK) for mix in stages]


def mean_weights(weights: Sequence[Weight]) -> tuple[float, ...]:
    """Each source's weight over the whole run: its own while none changes, its mean share of the sequences if one
    does."""
    stages = mixes(weights)
    if len(stages) == 1:
        return stages[0].weights
    ends = [*(mix.start for mix in stages[1:]), 1.0]
    lengths = [end - mix.start for mix, end in zip(stages, ends, strict=True)]
    return tuple(
        math.fsum(length * mix.weights[at] / sum(mix.weights) for length, mix in zip(lengths, stages, strict=True))
        for at in range(len(weights))
    )


def problem_of(weights: Sequence[Weight]) -> str | None:
    """What is wrong with the sources' weights, as one line that begins with the key; None if nothing is."""
    for at, weight in enumerate(weights):
        key = f"sources.{at}.weight"
        if isinstance(weight, tuple):
            if problem := _problem_of_stages(key, weight):
                return problem
        elif not 0 < weight < math.inf:
            return f"{key}: {weight} must be more than 0, and finite; leave the source out instead"
    for mix in mixes(weights):
        if not any(mix.weights):
            return f"sources: from {mix.start} of the run on every weight is 0; give one source a weight there"
    return None


def _problem_of_stages(key: str, stages: tuple[WeightStage, ...]) -> str | None:
    if not stages:
        return f"{key}: has no stages; give a number, or stages such as [{{start: 0, weight: 1}}]"
    for at, stage in enumerate(stages):
        if not 0 <= stage.weight < math.inf:
            return f"{key}.{at}.weight: {stage.weight} must be 0 or more, and finite"
    if stages[0].start != 0:
        return f"{key}.0.start: {stages[0].start} must be 0; for a source that comes later, begin with weight 0"
    for at, (before, stage) in enumerate(pairwise(stages), start=1):
        if not before.start < stage.start < 1:
            return (
                f"{key}.{at}.start: {stage.start} must be more than {before.start}, where the last began, and below 1"
            )
    if not any(stage.weight for stage in stages):
        return f"{key}: 0 in every stage; leave the source out instead"
    return None
