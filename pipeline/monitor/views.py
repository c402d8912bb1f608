"""Joins what happens to what people look at: for each verb, its progress on the console and the run in wandb.

Training and the scheduler both show the journal: the former as it writes it, into its log; the latter as it reads it,
on the terminal.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_prep.files import plain
from pipeline.config import RunConfig
from pipeline.monitor.console import Bar, progress, start_bar, training_extra
from pipeline.monitor.journal import Line, read_from
from pipeline.monitor.wandb_view import WandbView
from pipeline.workspace import RunFolder

if TYPE_CHECKING:
    from data_prep.stages import Progress

View = Callable[[str, dict[str, Any]], None]
"""Shows a journal line, given its kind and figures."""

WANDB_EVERY_S = 5.0
"""How often wandb gets the journal's new lines while training."""


@contextmanager
def corpus_progress() -> Iterator[Callable[["Progress"], None]]:
    with progress("prep", unit="tasks") as bar:

        def update(now: "Progress") -> None:
            figures = [f"{now.documents:,} documents", f"{now.text_bytes / 1e6:,.1f} MB"]
            figures += [f"{now.tokens:,} tokens"] if now.tokens else []
            bar.update(f"prep: {now.stage}", done=now.done, total=now.total, extra=" · ".join(figures))

        yield update


@contextmanager
def transfer_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    with progress(title, unit="files") as bar:
        yield lambda done, total: bar.update(done=done, total=total)


@contextmanager
def evaluation_progress() -> Iterator[Callable[[int, int], None]]:
    with progress("evaluate", unit="tokens") as bar:
        begun = False

        def update(done: int, total: int) -> None:
            nonlocal begun
            if not begun:  # an evaluation that was stopped goes on from there
                bar.begin_at(done)
                begun = True
            bar.update(done=done, total=total)

        yield update


@contextmanager
def training_view(config: RunConfig, run: RunFolder, run_id: str) -> Iterator[View]:
    """What rank 0 shows: its steps in the job's log, and the journal in wandb."""
    bar = start_bar("train", config.total_steps, "steps")
    with wandb_view(config, run, run_id) as wandb:
        sent_at = 0.0

        def view(kind: str, figures: dict[str, Any]) -> None:
            nonlocal sent_at
            show_line(bar, {"kind": kind, **figures})
            if time.monotonic() - sent_at > WANDB_EVERY_S:
                wandb.catch_up()
                sent_at = time.monotonic()

        yield view
    bar.close()


def wandb_view(config: RunConfig, run: RunFolder, run_id: str) -> WandbView:
    return WandbView(
        run.path,
        project=config.monitor.wandb.project,
        mode=config.monitor.wandb.mode,
        run_name=config.name,
        run_id=run_id,
        config=plain(config),
    )


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How far the evaluations of a run's checkpoints are."""

    step: int | None
    """The one under way."""
    done: int
    total: int
    beside_training: bool


class RunWatch:
    """What `headrace run` shows of a training that goes on elsewhere. Called between the scheduler's looks."""

    def __init__(self, config: RunConfig, run: RunFolder) -> None:
        self._config = config
        self._run = run
        self._offset = read_from(run.metrics, 0)[1]
        self._bar: Bar | None = None
        self._evaluates = False
        """Whether the bar is about evaluations."""

    def __call__(self, scoring: Scoring) -> None:
        self._catch_up()
        if not scoring.beside_training and (scoring.step is not None or self._evaluates):
            self._show_evaluations(scoring)

    def close(self) -> None:
        self._catch_up()
        if self._bar is not None:
            self._bar.close()

    def _catch_up(self) -> None:
        lines, self._offset = read_from(self._run.metrics, self._offset)
        for line in lines:
            bar = self._bar = self._bar or start_bar("train", self._config.total_steps, "steps")
            if line["kind"] in ("start", "resume"):  # perhaps once more
                bar.update("train", total=self._config.total_steps, unit="steps")
                self._evaluates = False
            show_line(bar, line)

    def _show_evaluations(self, scoring: Scoring) -> None:
        """Of a run that is trained: they may take as long as its training did."""
        bar = self._bar = self._bar or start_bar("evaluate")
        if not self._evaluates:
            bar.update("evaluate", total=scoring.total, unit="checkpoints")
            bar.begin_at(scoring.done)
            self._evaluates = True
        bar.update(
            done=scoring.done, total=scoring.total, extra="" if scoring.step is None else f"step {scoring.step:,}"
        )


@contextmanager
def run_progress(config: RunConfig, run: RunFolder) -> Iterator[Callable[[Scoring], None]]:
    watch = RunWatch(config, run)
    try:
        yield watch
    finally:
        watch.close()


def show_line(bar: Bar, line: Line) -> None:
    """One journal line: steps move the bar, the rest is said in words."""
    match line["kind"]:
        case "step":
            bar.update(done=line["step"], extra=training_extra(line))
        case "start":
            bar.begin_at(0)
        case "resume":
            bar.begin_at(line["step"])
            bar.say(f"resumed at step {line['step']:,}")
        case "eval":
            name = f"{line['suite']}/bits_per_byte"
            score = line["scores"][name]
            if score["value"] is not None:
                bar.say(f"step {line['step']:,}: {name} {score['value']:.4f} ± {score['standard_error'] or 0:.4f}")
        case "promote":
            verdict = f"promoted to {line['alias']}" if line["verdict"] == "promote" else "not promoted"
            bar.say(f"step {line['step']:,}: {verdict}: {line['why']}")
        case "guard":
            bar.say(f"WARNING: {line.get('problem', line)}")
        case "upload" if "problem" in line:
            bar.say(f"WARNING: {line['problem']}")
        case "told":
            bar.say(f"rank {line['rank']} was told to stop ({line['reason']})")
        case "notice":
            stands = "nothing was loaded" if line["step"] is None else f"step {line['step']:,} is saved"
            bar.say(f"told to stop ({line['reason']}): {stands}")
