"""A verdict, and those that any check can come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.doctor.checks.words import alike, ranks_text

Result = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, kw_only=True)
class Check:
    name: str
    result: Result
    figure: str
    """What was measured, for people."""
    bound: str = ""
    """What it is held against."""
    advice: str = ""
    """What to do about it; nothing if it is in order."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The figures, for programs."""


FAILS_AT = 4.0
"""Times a bound of speed that is a fault, and no longer a slow machine: a fast network that is not used is slower by
more (TCP in place of InfiniBand, some 10 times)."""


def grade(took_s: float, bound_s: float | None) -> Result:
    """A matter of speed alone: slower than planned is to be looked at, `FAILS_AT` times slower is wrong."""
    if bound_s is None or took_s <= bound_s:
        return "ok"
    return "warn" if took_s <= FAILS_AT * bound_s else "fail"


def skipped(name: str, why: str) -> Check:
    return Check(name=name, result="skip", figure=why)


def standing(places: Sequence[str | None]) -> str:
    """Where each rank stands, the odd ones first. places: innermost call of each; None for a rank that says nothing."""
    groups = sorted(alike([place or "" for place in places]), key=len)
    return ", ".join(
        f"{ranks_text(group)} {'in ' + place if (place := places[group[0]]) else 'gone'}" for group in groups
    )


def broken(name: str, problems: Mapping[int, str]) -> Check:
    """A check that could not be carried out, by rank and what it said there."""
    first = min(problems)
    return Check(
        name=name,
        result="fail",
        figure=f"{ranks_text(problems)}: {problems[first]}",
        bound="no error",
        advice="the log has the traceback",
        values={"problems": {str(rank): problem for rank, problem in problems.items()}},
    )
