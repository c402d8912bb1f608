"""A curve as text, in braille: each character holds 2 by 4 dots, so 66 columns show 132 points of a curve.

Written here because it is 60 lines, and because the plotting libraries for terminals change their interface often.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

Point = tuple[float, float]

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of the dots in a braille character (U+2800 and on), by column and row."""


def curve_plot(points: Sequence[Point], width: int = 78, height: int = 10, x_name: str = "") -> str:
    """Draws a curve, points in ascending x, over axes with the extreme values; `height` lines and two for the x axis.

    Points that share a dot column are averaged. Empty without points.
    """
    if not points:
        return ""
    # The labels' width decides how many columns are averaged into, which decides the labels: two rounds settle it.
    margin = 0
    for _ in range(2):
        columns = width - margin - 2
        means = _by_column(points, columns * 2)
        labels = _labels(min(means.values()), max(means.values()), height)
        margin = max(map(len, labels))
    columns = width - margin - 2
    rows = _draw(_by_column(points, columns * 2), columns, height)
    lines = [f"{label:>{margin}} {'┤' if label else '│'}{row}" for label, row in zip(labels, rows, strict=True)]
    axis = " " * margin + " └" + "─" * columns
    return "\n".join([*lines, axis, " " * (margin + 2) + _x_labels(points, columns, x_name)])


def _draw(means: Mapping[int, float], columns: int, height: int) -> list[str]:
    dots_high = height * 4
    low, high = min(means.values()), max(means.values())
    at = {x: round((high - y) / ((high - low) or 1.0) * (dots_high - 1)) for x, y in means.items()}
    cells = [[0] * columns for _ in range(height)]
    before: int | None = None
    for x in sorted(at):
        # A steep stretch is drawn as a vertical run of dots, so that the curve has no holes.
        start = at[x] if before is None else before + (at[x] > before) - (at[x] < before)
        for y in range(min(start, at[x]), max(start, at[x]) + 1):
            cells[y // 4][x // 2] |= _DOTS[x % 2][y % 4]
        before = at[x]
    return ["".join(chr(0x2800 + cell) if cell else " " for cell in row) for row in cells]


def _by_column(points: Sequence[Point], dots_wide: int) -> dict[int, float]:
    """The mean of each dot column; between sparse points a straight line."""
    first, last = points[0][0], points[-1][0]
    scale = (dots_wide - 1) / ((last - first) or 1.0)
    sums: dict[int, list[float]] = {}
    for x, y in points:
        sums.setdefault(round((x - first) * scale), []).append(y)
    means = {column: sum(values) / len(values) for column, values in sums.items()}
    known = sorted(means)
    for left, right in pairwise(known):
        for column in range(left + 1, right):
            share = (column - left) / (right - left)
            means[column] = means[left] * (1 - share) + means[right] * share
    return means


def _labels(low: float, high: float, height: int) -> list[str]:
    """Values beside the top, the middle and the bottom line."""
    labels = [""] * height
    for row in {0, height // 2, height - 1}:
        labels[row] = f"{high - (high - low) * row / max(height - 1, 1):.2f}"
    return labels


def _x_labels(points: Sequence[Point], columns: int, x_name: str) -> str:
    first, last = f"{points[0][0]:,.0f}", f"{points[-1][0]:,.0f}"
    middle = x_name if len(first) + len(x_name) + len(last) + 2 <= columns else ""
    gap = columns - len(first) - len(last)
    return f"{first}{middle:^{gap}}{last}" if gap >= 0 else last[:columns]
