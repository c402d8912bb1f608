"""Scores are counted once, thresholds applied whenever they change: texts are not read again for it.

    texts -> scorers -> columns "0.words.num_words", ... -> rules with thresholds -> the first reason, or none
          -> edit -> texts -> scorers -> columns "1.c4.sentences", ...

A column is named by its stage (the number of edits before it), its scorer with the parameters that shape it, and what
it counts. All of a text's scores follow from that text alone, whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from data_prep.filters.characters import Marked
    from data_prep.texts import Texts

Scores: TypeAlias = "Mapping[str, npt.NDArray[Any]]"
"""What is counted -> a number for each text."""
Reasons: TypeAlias = "Iterator[tuple[str, npt.NDArray[np.bool_]]]"
"""A rule's reasons in order, each with the texts that it drops."""


@dataclass(frozen=True, kw_only=True)
class Shaper:
    """A scorer or an edit with the parameters that shape what it gives."""

    name: str
    function: Callable[..., Any]
    parameters: Mapping[str, int]

    @property
    def label(self) -> str:
        values = ",".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"{self.name}({values})" if values else self.name

    def __call__(self, texts: Marked) -> Any:
        return self.function(texts, **self.parameters)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A rule over its scorers, or an edit."""

    name: str
    rule: partial[Reasons] | None = None
    """With a source's thresholds."""
    scorers: tuple[Shaper, ...] = ()
    edit: Shaper | None = None

    @property
    def shapers(self) -> tuple[Shaper, ...]:
        return (self.edit,) if self.edit else self.scorers


@dataclass(frozen=True, slots=True)
class Scored:
    texts: Texts
    """As the edits left them."""
    columns: dict[str, npt.NDArray[Any]]
    """Scores, and for each edit `edited`, whether it changed the text, and `blank`, whether nothing was left."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    code: npt.NDArray[np.int16]
    """For each text the place of its reason; -1 keeps it."""
    reasons: tuple[str, ...]
    edited: dict[str, npt.NDArray[np.int64]]
    """Edit -> how often it changed each text, also of those that are dropped."""


def scoring(steps: Sequence[Step]) -> list[str]:
    """What shapes texts and scores, and no threshold: equal lists give equal texts and columns."""
    return sorted({f"{stage}.{shaper.label}" for stage, step in _staged(steps) for shaper in step.shapers})


def score(steps: Sequence[Step], texts: Texts) -> Scored:
    """Counts all that the steps ask for, and edits the texts. Every text takes part in every step."""
    from data_prep.filters.characters import marked

    columns: dict[str, npt.NDArray[Any]] = {}
    marks, counted = None, set()
    for stage, step in _staged(steps):
        marks = marks or marked(texts)
        for scorer in step.scorers:
            prefix = f"{stage}.{scorer.label}"
            if prefix not in counted:
                counted.add(prefix)
                columns |= {f"{prefix}.{name}": column for name, column in scorer(marks).items()}
        if step.edit:
            left = step.edit(marks)
            prefix = f"{stage}.{step.edit.label}"
            columns[f"{prefix}.edited"] = left.sizes != texts.sizes  # an edit takes out and adds nothing
            columns[f"{prefix}.blank"] = left.sizes == 0
            texts, marks = left, None
    return Scored(texts, columns)


def decide(steps: Sequence[Step], columns: Mapping[str, npt.NDArray[Any]], num_texts: int) -> Verdicts:
    """The first reason of each text, by the steps' thresholds, on the columns that `score` gave.

    A text of which the edits leave nothing is `empty`, if no rule drops it before.
    """
    import numpy as np

    code = np.full(num_texts, -1, dtype=np.int16)
    reasons: list[str] = []
    edited: dict[str, npt.NDArray[np.int64]] = {}

    def drop(reason: str, mask: npt.NDArray[np.bool_]) -> None:
        if reason not in reasons:
            reasons.append(reason)
        code[mask & (code < 0)] = reasons.index(reason)

    blank = None
    for stage, step in _staged(steps):
        if step.edit:
            change = columns[f"{stage}.{step.edit.label}.edited"] & (code < 0)
            edited[step.name] = edited.get(step.name, 0) + change.astype(np.int64)
            blank = columns[f"{stage}.{step.edit.label}.blank"]
        if step.rule:
            prefixes = tuple(f"{stage}.{scorer.label}." for scorer in step.scorers)
            scores = {key.rpartition(".")[2]: column for key, column in columns.items() if key.startswith(prefixes)}
            for reason, mask in step.rule(scores):
                drop(reason, mask)
    if blank is not None:
        drop("empty", blank)
    return Verdicts(code, tuple(reasons), edited)


def _staged(steps: Sequence[Step]) -> Iterator[tuple[int, Step]]:
    """Each step with the number of edits before it."""
    stage = 0
    for step in steps:
        yield stage, step
        stage += step.edit is not None
