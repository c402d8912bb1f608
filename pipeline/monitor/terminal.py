"""The live bar on a terminal."""

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column

from pipeline.monitor.console import Snapshot, brief_line_of, line_of


class TerminalBar:
    """One rich bar; a finished thing leaves its last line behind."""

    def __init__(self, stream: TextIO) -> None:
        self._progress = Progress(
            SpinnerColumn(style="cyan"),
            TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16),
            # On a narrow terminal only the line gives way.
            TextColumn("{task.fields[line]}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
            expand=True,
            console=Console(file=stream, highlight=False),
            transient=True,
            refresh_per_second=8,
        )
        self._task = self._progress.add_task("", total=None, line="")
        self._progress.start()

    def show(self, now: Snapshot) -> None:
        self._progress.start()  # again, if a thing before this one was closed; else nothing
        self._progress.update(
            self._task, description=now.title, completed=now.done, total=now.total, line=brief_line_of(now)
        )

    def say(self, message: str) -> None:
        self._progress.console.print(message, markup=False, highlight=False)

    def close(self, now: Snapshot) -> None:
        self._progress.stop()
        if now.done:
            mark = "[green]✓[/]" if now.total is None or now.done >= now.total else "[yellow]stopped[/]"
            self._progress.console.print(f"{mark} [bold]{now.title}[/]  ", end="")
            self.say(line_of(now).removeprefix(f"{now.title}  "))
