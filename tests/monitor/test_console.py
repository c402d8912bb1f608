import contextlib
import io
import os
import pty
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.monitor.console import (
    LOG_EVERY_S,
    Bar,
    LogLines,
    Snapshot,
    brief_line_of,
    duration,
    line_of,
    progress,
    rate_text,
    training_extra,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def logged(stream: io.StringIO) -> list[str]:
    """The lines without their time of day."""
    return [line[9:] for line in stream.getvalue().splitlines()]


def test_line_says_amount_rate_and_time_left() -> None:
    now = Snapshot(title="train", done=120, total=2000, unit="steps", extra="loss 4.213", elapsed_s=40.0)
    assert line_of(now) == "train  120 of 2,000 steps (6 %) · 3.0 steps/s · 10:27 left · loss 4.213"
    assert brief_line_of(now) == "120/2,000 steps · 10:27 left · loss 4.213"


def test_resumed_steps_do_not_count_into_the_rate() -> None:
    now = Snapshot(title="train", done=1100, total=1200, began_at=1000, elapsed_s=50.0)
    assert now.rate == 2.0
    assert now.eta_s == 50.0


def test_unknown_total_has_no_time_left() -> None:
    assert (
        line_of(Snapshot(title="read", done=500, unit="files", elapsed_s=10.0)) == "read  500 files · 50 files/s · 0:10"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (11045, "3:04:05"), (183840, "2 d 03:04")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(12345.6, "12,346 docs/s"), (3.14, "3.1 docs/s"), (0.5, "0.50 docs/s"), (0.05, "3.0 docs/min")]
)
def test_rates(rate: float, text: str) -> None:
    assert rate_text(rate, "docs") == text


def test_log_gets_a_line_now_and_then(clock: Clock) -> None:
    stream = io.StringIO()
    bar = Bar(LogLines(stream, clock), Snapshot(title="train", total=100, unit="steps"), clock)
    for _ in range(100):
        clock.now += 0.5
        bar.advance()
    bar.close()
    lines = logged(stream)
    assert len(lines) == 1 + int(50 / LOG_EVERY_S)
    assert lines[0].startswith("train  1 of 100 steps (1 %)")
    assert lines[-1] == "train  100 of 100 steps (100 %) · 2.0 steps/s · 0:50"


def test_each_stage_is_told_from_its_start_to_its_end(clock: Clock) -> None:
    stream = io.StringIO()
    bar = Bar(LogLines(stream, clock), Snapshot(title="read", total=3), clock)
    for stage in ("read", "pack"):
        for done in (1, 2, 3):
            clock.now += 1.0
            bar.update(stage, done=done, total=3, unit="tasks")
    bar.close()
    assert logged(stream) == [
        "read  1 of 3 tasks (33 %) · 1.0 tasks/s · 0:02 left",
        "read  3 of 3 tasks (100 %) · 1.0 tasks/s · 0:03",
        "pack  1 of 3 tasks (33 %) · 1.0 tasks/s · 0:02 left",
        "pack  3 of 3 tasks (100 %) · 1.0 tasks/s · 0:03",
    ]


def test_what_never_began_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("read", total=3):
        pass
    assert capsys.readouterr() == ("", "")


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("read", total=1) as bar:
        bar.say("note")
        bar.advance()
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.splitlines()[0] == "note"
    assert "read  1 of 1 (100 %)" in found.err


def test_bar_is_closed_when_the_work_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with progress("read", total=2) as bar:
            bar.advance()
            raise RuntimeError("it fails")

    with pytest.raises(RuntimeError, match="it fails"):
        work()
    assert "read  1 of 2" in capsys.readouterr().err


def read_all(leader: int) -> str:
    """What a terminal was sent; its end shows as an error."""
    parts = []
    with contextlib.suppress(OSError):
        while part := os.read(leader, 4096):
            parts.append(part)
    os.close(leader)
    return b"".join(parts).decode()


def test_terminal_gets_a_bar() -> None:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream, progress("train", total=2, unit="steps", stream=stream) as bar:
        bar.advance(extra="loss 2.5")
        bar.say("step 1: saved [bold]as it is[/bold]")
        bar.advance()
    seen = read_all(leader)
    assert "━" in seen
    assert "step 1: saved [bold]as it is[/bold]" in seen
    assert "2 of 2 steps (100 %)" in seen.split("✓")[-1]
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h"), "the cursor is shown again"


def test_training_figures() -> None:
    figures: dict[str, Any] = {"loss": 3.21401, "lr": 1e-3, "tokens_per_s": 34567.8, "step": 3}
    assert training_extra(figures) == "loss 3.2140 · 34,568 tokens/s · lr 1.0e-03"
    assert training_extra({"loss": None}) == ""


@given(st.integers(0, 10**6), st.integers(0, 10**6) | st.none(), st.floats(0, 1e6), st.integers(0, 10**6))
def test_any_snapshot_can_be_said(done: int, total: int | None, elapsed_s: float, began_at: int) -> None:
    now = Snapshot(title="t", done=done, total=total, elapsed_s=elapsed_s, began_at=began_at)
    assert "\n" not in line_of(now) + brief_line_of(now)
