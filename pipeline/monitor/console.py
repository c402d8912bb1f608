"""Progress with a rate and an ETA, on stderr: a live bar on a terminal, now and then a plain line in a log file.

    with progress("tokenize", total=120, unit="tasks") as bar:
        bar.advance(); bar.update(done=40, extra="1.2 GB")

What is said is a pure function of a `Snapshot`; `TerminalBar` and `LogLines` only show it.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TextIO

LOG_EVERY_S = 10.0
"""How often a log file gets a line: 360 an hour, which one can still scroll through."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How far something is."""

    title: str
    done: int = 0
    total: int | None = None
    unit: str = ""
    extra: str = ""
    """What else is worth seeing, such as the loss."""
    elapsed_s: float = 0.0
    began_at: int = 0
    """What was done already when this began: a resumed run's steps do not count into the rate."""

    @property
    def rate(self) -> float | None:
        """Units a second since it began; None until it is known: the first half second says more about the start."""
        made = self.done - self.began_at
        return made / self.elapsed_s if made > 0 and self.elapsed_s > 0.5 else None

    @property
    def eta_s(self) -> float | None:
        if self.total is None or self.rate is None:
            return None
        return max(self.total - self.done, 0) / self.rate


def line_of(now: Snapshot) -> str:
    """`train  120 of 2,000 steps (6 %) · 3.1 steps/s · 10:06 left · loss 4.213`"""
    share = f" ({100 * now.done // now.total} %)" if now.total else ""
    amount = f"{_amount(now, ' of ')}{share}"
    rate = rate_text(now.rate, now.unit) if now.rate is not None else ""
    return f"{now.title}  {_joined(amount, rate, _time(now), now.extra)}"


def brief_line_of(now: Snapshot) -> str:
    """What a terminal has room for beside a bar: `120/2,000 steps · 10:06 left · loss 4.213`"""
    rate = rate_text(now.rate, now.unit) if now.rate is not None and not now.extra else ""
    return _joined(_amount(now, "/"), _time(now), now.extra, rate)


def _amount(now: Snapshot, of: str) -> str:
    total = "" if now.total is None else f"{of}{now.total:,}"
    return f"{now.done:,}{total} {now.unit}".rstrip()


def _time(now: Snapshot) -> str:
    """The time left, or once it is done, the time it took."""
    if now.total is None or now.done >= now.total:
        return duration(now.elapsed_s)
    return f"{duration(now.eta_s)} left" if now.eta_s is not None else ""


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def rate_text(rate: float, unit: str) -> str:
    """Per second, or per minute where less than one comes in ten seconds."""
    per, value = ("s", rate) if rate >= 0.1 else ("min", rate * 60)
    figure = f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
    return f"{figure} {unit}/{per}" if unit else f"{figure}/{per}"


def duration(seconds: float) -> str:
    """`0:42`, `12:05`, `3:04:05`, `2 d 03:04`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02}:{minute:02}"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class Shown(Protocol):
    """Where snapshots go. Two of these: a terminal and a log."""

    def show(self, now: Snapshot) -> None: ...

    def say(self, message: str) -> None:
        """Prints a line for good, above the bar if there is one."""

    def close(self, now: Snapshot) -> None: ...


class Bar:
    """One thing in progress."""

    def __init__(self, shown: Shown, start: Snapshot, clock: Callable[[], float] = time.monotonic) -> None:
        self._shown = shown
        self._clock = clock
        self._began = self._updated = clock()
        self._now = start
        shown.show(start)

    def advance(self, num: int = 1, extra: str | None = None) -> None:
        self.update(done=self._now.done + num, extra=extra)

    def update(
        self,
        description: str | None = None,
        done: int | None = None,
        total: int | None = None,
        unit: str | None = None,
        extra: str | None = None,
    ) -> None:
        """Sets what is given and keeps the rest. Another description is another thing: its rate and time start anew."""
        if description is not None and description != self._now.title:
            if self._now.done:
                self._shown.close(replace(self._now, elapsed_s=self._updated - self._began))
            self._began = self._updated  # the next thing began when this one was last heard of
            self._now = Snapshot(title=description, unit=self._now.unit)
        given = {"done": done, "total": total, "unit": unit, "extra": extra}
        self._now = replace(self._now, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
        self._updated = self._clock()
        self._shown.show(self._timed())

    def begin_at(self, done: int) -> None:
        """Says that so much was done before this began."""
        self._began = self._updated = self._clock()
        self._now = replace(self._now, done=done, began_at=done)

    def say(self, message: str) -> None:
        self._shown.say(message)

    def close(self) -> None:
        self._shown.close(self._timed())

    def _timed(self) -> Snapshot:
        return replace(self._now, elapsed_s=self._clock() - self._began)


@contextmanager
def progress(title: str, total: int | None = None, unit: str = "", stream: TextIO | None = None) -> Iterator[Bar]:
    """Shows progress on stderr, or on a given stream, until the block ends."""
    bar = start_bar(title, total, unit, stream)
    try:
        yield bar
    finally:
        bar.close()


def start_bar(title: str, total: int | None = None, unit: str = "", stream: TextIO | None = None) -> Bar:
    """A bar that the caller closes, for where no `with` fits."""
    return Bar(shown_on(stream or sys.stderr), Snapshot(title=title, total=total, unit=unit))


def shown_on(stream: TextIO) -> Shown:
    """A live bar if a person looks, lines if a file is written."""
    if stream.isatty():
        from pipeline.monitor.terminal import TerminalBar

        return TerminalBar(stream)
    return LogLines(stream)


class LogLines:
    """A line at the start of each thing, every `LOG_EVERY_S`, and at its end."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._said_at: float | None = None
        self._said = Snapshot(title="")

    def show(self, now: Snapshot) -> None:
        is_new = now.title != self._said.title
        if is_new and now.done == now.began_at:
            return  # nothing to tell yet
        if is_new or self._said_at is None or self._clock() - self._said_at >= LOG_EVERY_S:
            self._print(now)

    def say(self, message: str) -> None:
        print(message, file=self._stream, flush=True)

    def close(self, now: Snapshot) -> None:
        if now.done and (now.title, now.done) != (self._said.title, self._said.done):
            self._print(now)

    def _print(self, now: Snapshot) -> None:
        self._said_at, self._said = self._clock(), now
        self.say(f"{time.strftime('%H:%M:%S')} {line_of(now)}")


def training_extra(figures: dict[str, Any]) -> str:
    """A step line's figures, the most wanted first: `loss 3.2140 · 34,567 tokens/s · lr 1.0e-03`."""
    shapes = {"loss": "loss {:.4f}", "tokens_per_s": "{:,.0f} tokens/s", "lr": "lr {:.1e}"}
    return " · ".join(
        shape.format(figures[name]) for name, shape in shapes.items() if isinstance(figures.get(name), int | float)
    )
