"""The report of an examination: a record that is true at any instant, and its table for people.

Rank 0 writes it before each check, with that one as failed: if the job dies or hangs in it, the report says so.
"""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.doctor.checks import Check, skipped

REPORT_NAME = "report.json"
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


@dataclass(frozen=True, kw_only=True)
class Report:
    run: str
    setting: str
    """Launcher, ranks, ZeRO stage and precision, in words."""
    checks: tuple[Check, ...]
    seconds: float

    @property
    def failed(self) -> tuple[str, ...]:
        return tuple(check.name for check in self.checks if check.result == "fail")


def unfinished(done: Sequence[Check], left: Sequence[str], why: str) -> tuple[Check, ...]:
    """The checks of an examination that stands, or ended, in the first of those that are left."""
    if not left:
        return tuple(done)
    standing = Check(name=left[0], result="fail", figure=why, advice="the job's log says more")
    return (*done, standing, *(skipped(name, "not reached") for name in left[1:]))


def record_of(report: Report) -> dict[str, Any]:
    """For `--json`."""
    return asdict(report) | {"passed": not report.failed, "failed": list(report.failed)}


def render(report: Report, width: int = 120, *, colour: bool = False) -> str:
    """Text for a terminal, or with `colour=False` for a file."""
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system="standard" if colour else None,
        force_terminal=colour,
        highlight=False,
        emoji=False,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("check", "", "figure", "bound"):
        table.add_column(column, no_wrap=column in ("check", ""))
    for check in report.checks:
        style = STYLES[check.result]
        table.add_row(check.name, Text(check.result, style=style), Text(check.figure), Text(check.bound, style="dim"))
        if check.advice:
            table.add_row("", "", Text(f"→ {check.advice}", style=style), "")
    console.print(Text.assemble(("headrace", "bold"), "  doctor of ", (report.run, "bold"), f"  {report.setting}"))
    console.print()
    console.print(table)
    console.print()
    console.print(_verdict(report))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def _verdict(report: Report) -> Text:
    took = f"in {report.seconds:.0f} s"
    if report.failed:
        return Text(f"✗ {len(report.failed)} of {len(report.checks)} checks failed {took}", style="bold red")
    warned = sum(check.result == "warn" for check in report.checks)
    if warned:
        return Text(f"✓ No check failed, {warned} to look at, {took}", style="yellow")
    return Text(f"✓ All checks passed {took}", style="green")
