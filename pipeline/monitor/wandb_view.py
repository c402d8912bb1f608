"""wandb as a view of the journal: what it shows is computed from `metrics.jsonl`, and it may lag or fail.

    metrics.jsonl ──catch_up()──> a wandb run, one id for the run's whole life ──> wandb.ai, or runs/NAME/wandb/

A run that is preempted and resumed is one curve:

- The wandb id is given by the caller and stays, so every segment is the same run. Offline, wandb starts a new local
  folder for each segment; `wandb sync` puts them together by that id.
- wandb's own step is the line's number in the journal. wandb drops what comes with a lower step than it has seen, so
  segments go on where the last one stopped, and a line that is sent twice counts once.
- The charts' axis is the training step, so an evaluation that comes late has its right place.
- What the guard finds is an alert, which wandb sends on by mail or Slack. One that is sent twice comes twice.
- Steps trained again after a resume are sent only where their loss differs; then, as in the journal, the later wins.

A killed process loses what wandb had not yet written, so the stored place in the journal stays that much behind.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from data_prep.files import read_record, write_record
from pipeline.monitor.journal import JOURNAL_NAME, Line, read_from, read_journal
from pipeline.monitor.redact import without_secrets
from pipeline.monitor.wandb_run import Mode, alert_of, finish, resolve_mode, shown_figures, start

WRITTEN_AFTER_S = 30.0
"""wandb writes its local file every 15 s (its `x_transaction_log_flush_interval`); twice that is surely written."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """How much of the journal wandb has."""

    offset: int = 0
    """Bytes."""
    lines: int = 0


def warn(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class WandbView:
    """Shows a run's journal in wandb. No failure of wandb is raised: it is said once, and the run goes on."""

    def __init__(
        self,
        run_folder: Path,
        *,
        project: str,
        mode: Mode,
        run_name: str,
        run_id: str,
        config: Mapping[str, Any],
        say: Callable[[str], None] = warn,
    ) -> None:
        """Starts the wandb run; with mode "disabled", wandb is not even imported.

        "auto" is online if a key is there (WANDB_API_KEY or netrc), and offline, with a word about it, if not;
        WANDB_MODE decides if it is set. `run_id` is the same for every segment of a run: a digest of its identity.
        Secrets in `config` are taken out.
        """
        self.mode = resolve_mode(mode, os.environ)
        self._say = say
        self._journal = run_folder / JOURNAL_NAME
        self._place_path = run_folder / "wandb" / "place.json"
        self._run: Any = None
        self._loss_shown: dict[int, float | None] = {}
        if self.mode == "disabled":
            return
        if mode == "auto" and self.mode == "offline":
            say(f"wandb: offline, for there is no key; to upload: wandb sync {run_folder / 'wandb'}/offline-run-*")
        self._given = self._written = self._read_place()
        self._written_at = time.monotonic()
        self._start(run_folder, project, run_name, run_id, without_secrets(config))

    def _start(self, folder: Path, project: str, name: str, run_id: str, config: dict[str, Any]) -> None:
        def attempt() -> None:
            self._run = start(folder, self.mode, project=project, name=name, run_id=run_id, config=config)

        self._attempt(attempt)
        if self._run is None and self.mode == "online":  # no network is no reason to lose the curve
            self.mode = "offline"
            self._attempt(attempt)

    def catch_up(self) -> None:
        """Sends the journal's new lines."""
        if self._run is not None:
            self._attempt(self._send_new_lines)

    def close(self) -> None:
        """Sends what is left and ends the segment. May be called twice."""
        self.catch_up()
        if self._run is not None:
            self._attempt(self._finish)
        self._run = None

    def _send_new_lines(self) -> None:
        lines, offset = read_from(self._journal, self._given.offset)
        for number, line in enumerate(lines, start=self._given.lines):
            figures = shown_figures(line)
            if figures and not self._repeats(line):
                self._run.log(figures, step=number)
            if alert := alert_of(line):
                self._run.alert(*alert, level="WARN")
        self._given = Place(offset=offset, lines=self._given.lines + len(lines))
        if time.monotonic() - self._written_at > WRITTEN_AFTER_S:
            write_record(self._place_path, self._written)
            self._written, self._written_at = self._given, time.monotonic()

    def _repeats(self, line: Line) -> bool:
        """True if this is a step that wandb already has, with the same loss."""
        if line["kind"] != "step":
            return False
        step, loss = line["step"], line.get("loss")
        if step in self._loss_shown and self._loss_shown[step] == loss:
            return True
        self._loss_shown[step] = loss
        return False

    def _finish(self) -> None:
        finish(self._run)
        write_record(self._place_path, self._given)

    def _read_place(self) -> Place:
        """How much the segments before have surely sent; nothing if this is another journal than theirs."""
        try:
            place = read_record(Place, self._place_path)
        except (FileNotFoundError, ValueError):
            return Place()
        sent = read_journal(self._journal)[: place.lines]
        if len(sent) < place.lines or self._journal.stat().st_size < place.offset:
            return Place()
        for line in sent:
            self._repeats(line)
        return place

    def _attempt(self, action: Callable[[], None]) -> None:
        """Runs what may fail in wandb; after a failure there is no wandb run any more."""
        try:
            action()
        except Exception as error:
            self._run = None
            problem = " ".join(str(error).split())[:300] or type(error).__name__
            self._say(f"wandb: {problem}; the run goes on, and its journal has everything")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
