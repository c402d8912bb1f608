"""The end of a run on one screen: what went in, how the loss fell, what was promoted, what to do next.

A pure function of a `Summary`, whose parts are plain values read off the run's records.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.monitor.plot import Point, curve_plot

WIDTH = 80
PLOT_LINES = 10
SAMPLE_LINES = 12

SourceRow = Mapping[str, str | int | Mapping[str, int]]
"""`source`, `read`, `dropped` (a number, or reason -> documents), `heldout`, `kept` and `tokens`."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A held-out score at a step."""

    step: int
    value: float
    standard_error: float | None


@dataclass(frozen=True, kw_only=True)
class Promoted:
    alias: str
    """`MODEL@ALIAS`."""
    step: int
    checkpoint: str
    """Where it lies."""
    digest: str
    generation: int
    why: str = ""
    run: str | None = None
    """Whose checkpoint it is, if it is another run's: then none of this run was found better."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    run: str
    headline: str = ""
    """`245 steps, 2,007,040 tokens, in 4:05`"""
    sources: Sequence[SourceRow] = ()
    losses: Sequence[Point] = ()
    """(step, loss), ascending."""
    measure: str = "held-out bits per byte"
    before: Measured | None = None
    after: Measured | None = None
    promoted: Promoted | None = None
    sample: str = ""
    next_commands: Sequence[tuple[str, str]] = field(default_factory=tuple)
    """(command, what it does)."""


def render(summary: Summary, width: int = WIDTH, *, colour: bool = False) -> str:
    """The summary as text for a terminal, or with `colour=False` for a file; only commands may exceed `width`."""
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system="standard" if colour else None,
        force_terminal=colour,
        highlight=False,
        emoji=False,
    )
    console.print(Group(*parts(summary, width)))
    # Commands are to be copied: they are neither wrapped nor cut, however long.
    console.print(Group(*_commands(summary.next_commands)), soft_wrap=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def parts(summary: Summary, width: int = WIDTH) -> list[RenderableType]:
    """The sections that have something to say, for a rich console."""
    title = Text.assemble(("headrace", "bold"), "  run ", (summary.run, "bold"), f"  {summary.headline}".rstrip())
    found: list[RenderableType] = [title]
    if summary.sources:
        found += _section("corpus", source_table(summary.sources), *_reasons(summary.sources))
    if summary.losses:
        plot = curve_plot(summary.losses, width - 2, PLOT_LINES, x_name="step")
        found += _section("training loss", Text(plot, style="cyan", no_wrap=True))
    if summary.after is not None:
        found += _section(summary.measure, _before_and_after(summary.before, summary.after))
    if summary.promoted is not None:
        ours = summary.promoted.run is None
        heading = "promoted" if ours else "promoted: nothing of this run, so it stays"
        found += _section(heading, _promotion(summary.promoted))
    if summary.sample:
        found += _section("sample", Text(_quoted(summary.sample, width - 4), style="italic"))
    return found


def _section(title: str, *content: RenderableType) -> list[RenderableType]:
    return [Text(), Text(title, style="bold green"), *(Padding(part, (0, 0, 0, 2)) for part in content)]


def source_table(rows: Sequence[SourceRow]) -> Table:
    """A line a source: documents read, dropped, held out and kept, and the tokens of those kept."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("source")
    names = {"read": "read", "dropped": "dropped", "heldout": "held out", "kept": "kept", "tokens": "tokens"}
    for title in names.values():
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(str(row["source"]), *(f"{_number(row.get(key, 0)):,}" for key in names))
    if len(rows) > 1:
        totals = [sum(_number(row.get(key, 0)) for row in rows) for key in names]
        table.add_row("total", *(f"{total:,}" for total in totals), style="bold")
    return table


def _number(value: str | int | Mapping[str, int]) -> int:
    return sum(value.values()) if isinstance(value, Mapping) else int(value)


def _reasons(rows: Sequence[SourceRow]) -> list[RenderableType]:
    """Why documents were dropped, per source, the most frequent reason first."""
    table = Table.grid(padding=(0, 2))
    for row in rows:
        dropped = row.get("dropped")
        if isinstance(dropped, Mapping) and any(dropped.values()):
            ordered = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
            reasons = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in ordered if count)
            table.add_row(Text(f"dropped from {row['source']}:", style="dim"), Text(reasons, style="dim"))
    return [Text(), table] if table.row_count else []


def _before_and_after(before: Measured | None, after: Measured) -> Table:
    table = Table.grid(padding=(0, 3))
    if before is not None:
        table.add_row(f"step {before.step:,}", _with_error(before), "")
    change = ""
    if before is not None and before.value:
        change = f"{(after.value - before.value) / before.value:+.1%}"
    table.add_row(f"step {after.step:,}", Text(_with_error(after), style="bold"), change)
    return table


def _with_error(measured: Measured) -> str:
    error = "" if measured.standard_error is None else f" ± {measured.standard_error:.4f}"
    return f"{measured.value:.4f}{error}"


def _promotion(promoted: Promoted) -> Group:
    of_run = "" if promoted.run is None else f" of {promoted.run}"
    lines = [
        Text.assemble(
            (promoted.alias, "bold"), f" -> step {promoted.step:,}{of_run}, generation {promoted.generation}"
        ),
        Text(f"{promoted.checkpoint}  (sha256 {promoted.digest[:12]})"),
    ]
    return Group(*lines, *([Text(promoted.why, style="dim")] if promoted.why else []))


def _quoted(text: str, width: int) -> str:
    """Every line behind a bar, so that generated text is not taken for ours; control characters made visible."""
    shown = "".join(char if char.isprintable() or char in "\n\t" else "·" for char in text)
    lines = [
        line[at : at + width] for line in shown.expandtabs(4).splitlines() for at in range(0, len(line) or 1, width)
    ]
    cut = [*lines[:SAMPLE_LINES], "…"] if len(lines) > SAMPLE_LINES else lines
    return "\n".join(f"│ {line}" for line in cut)


def _commands(commands: Sequence[tuple[str, str]]) -> list[RenderableType]:
    """The command on a line of its own, so that it can be copied whole, with what it does above it."""
    if not commands:
        return []
    lines: list[RenderableType] = [Text(), Text("next", style="bold green")]
    for command, what in commands:
        lines += [Text(f"  # {what}", style="dim"), Text(f"  {command}", style="bold")]
    return lines
