"""Numbers as people read them."""

from collections.abc import Sequence

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def number(value: int) -> str:
    return f"{value:,}"


def share(part: float, whole: float) -> str:
    """`12.3%`; a part that is there but rounds to nothing or to all is not shown as such."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.05:
        return "<0.1%"
    if 99.95 <= percent < 100:
        return ">99.9%"
    return f"{percent:.1f}%"


def size(size_bytes: float) -> str:
    """In the decimal unit that leaves one to three digits before the point."""
    value, unit = float(size_bytes), 0
    while abs(value) >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {UNITS[unit]}"


def decimal(value: float) -> str:
    """Whole numbers as such, others with six digits, so that a score at its threshold's edge differs from it."""
    return f"{value:,.0f}" if value == round(value) else f"{value:.6g}"


def ratio(part: int, whole: int, form: str) -> str:
    return format(part / whole, form) if whole else "–"


def rounded(num_tokens: float) -> str:
    """`24.6 billion`, with three digits."""
    for name, unit in (("trillion", 1e12), ("billion", 1e9), ("million", 1e6)):
        if num_tokens >= 0.9995 * unit:
            return f"{num_tokens / unit:.3g} {name}"
    return f"{num_tokens:,.0f}"


def words(name: str) -> str:
    return name.replace("_", " ")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lines of text in columns two spaces apart: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        ).rstrip()
        for first, *rest in rows
    )
