"""Figures and ranks in words."""

import math
from collections.abc import Sequence
from typing import Any


def alike(values: Sequence[str]) -> list[list[int]]:
    """The ranks that share a value, value by value."""
    groups: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        groups.setdefault(value, []).append(rank)
    return list(groups.values())


def ranks_text(ranks: Any) -> str:
    listed = sorted(ranks)
    named = ", ".join(map(str, listed[:4]))
    more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
    return f"rank{'s' if len(listed) > 1 else ''} {named}{more}"


def count_text(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def or_inf(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _three(value: float) -> str:
    """Three figures at least, and no exponent."""
    return f"{value:,.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def scaled(value: float, unit: str) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{_three(value / size)} {letter}{unit}"
    return f"{value:.0f} {unit}"


def bytes_text(value: float) -> str:
    """Decimal units, as disks and GPUs are sold."""
    return scaled(value, "B")


def seconds_text(value: float) -> str:
    for size, unit in ((172_800, "days"), (7200, "h"), (120, "min"), (1, "s")):
        if value >= size:
            return f"{_three(value / {'days': 86_400, 'h': 3600, 'min': 60, 's': 1}[unit])} {unit}"
    return f"{_three(value * 1000)} ms"
