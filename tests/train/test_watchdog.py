"""The watchdog bites when nothing ends any more, and never before."""

import re
import threading
from pathlib import Path
from typing import Any, TextIO

import pytest

from pipeline.monitor.journal import read_journal
from pipeline.train.watchdog import EXIT_HUNG, Watchdog
from tests.train.small_runs import config_tree, harm, small_corpus, start_ranks, write_config

NEVER_S = 3600.0


@pytest.fixture
def stacks(tmp_path: Path) -> Any:
    with (tmp_path / "stacks").open("w+") as file:
        yield file


def a_watchdog(stacks: TextIO, step_timeout_s: float, start_timeout_s: float, ended: threading.Event) -> Watchdog:
    def end(code: int) -> None:
        assert code == EXIT_HUNG
        ended.set()

    return Watchdog("small", step_timeout_s=step_timeout_s, start_timeout_s=start_timeout_s, end=end, stacks=stacks)


def test_it_ends_what_hangs_and_says_where_every_thread_stood(stacks: TextIO) -> None:
    ended = threading.Event()
    with a_watchdog(stacks, 0.01, NEVER_S, ended) as watchdog:
        assert not ended.is_set(), "the start may take longer"
        watchdog.beat()
        assert ended.wait(30)
    stacks.seek(0)
    said = stacks.read()
    assert re.search(r"^headrace: run small: no step has ended for \d+ s, so", said, re.MULTILINE)
    assert "test_it_ends_what_hangs" in said, "the main thread's stack"
    assert all(line.startswith("[rank 0] ") or not line for line in said.splitlines()[:-1])
    assert said.splitlines()[-1].startswith("headrace: "), "the last line is what the scheduler shows"


def test_a_start_that_hangs_is_ended_too_and_others_are_told_first(stacks: TextIO) -> None:
    ended, told = threading.Event(), []
    watchdog = Watchdog(
        "small",
        step_timeout_s=0.01,
        start_timeout_s=0.02,
        hung=lambda silent_s: told.append((silent_s, ended.is_set())),
        end=lambda code: ended.set(),
        stacks=stacks,
    )
    with watchdog:
        assert ended.wait(30)
    assert told[0][0] >= 0.02
    assert not told[0][1]


def test_beats_in_time_and_a_closed_one_end_nothing(stacks: TextIO) -> None:
    ended = threading.Event()
    with a_watchdog(stacks, NEVER_S, NEVER_S, ended) as watchdog:
        for _ in range(100):
            watchdog.beat()
        watchdog.restart()
    assert not ended.is_set()
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())


def test_a_beat_moves_the_deadline(stacks: TextIO) -> None:
    """From one that would never come to one that has come, and back."""
    ended = threading.Event()
    with a_watchdog(stacks, NEVER_S, NEVER_S, ended) as watchdog:
        watchdog._step_timeout_s = 0.01
        watchdog.beat()
        assert ended.wait(30)


@pytest.mark.slow
def test_a_rank_that_does_not_come_any_more_ends_the_run_with_all_stacks(tmp_path: Path) -> None:
    small_corpus(tmp_path / "corpus")
    tree: dict[str, Any] = config_tree(tmp_path / "ws", steps=6, every_steps=2)
    tree["train"]["guard"] = {"step_timeout_s": 5}
    config = write_config(tmp_path / "run.yaml", tree)
    process = start_ranks(config, tmp_path / "corpus", script=harm("hang", 4))
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "exitcode: 3" in output or "exitcode  : 3" in output, output
    assert re.search(r"^headrace: run small: no step has ended for \d+ s, so", output, re.MULTILINE), output
    assert re.search(r"^\[rank 1\] .* in hang$", output, re.MULTILINE), f"the stack of the rank that hangs: {output}"


@pytest.mark.slow
def test_a_run_that_hangs_is_told_to_the_journal(tmp_path: Path) -> None:
    """Of several ranks the first to bite ends the others, and may be another than rank 0: so here it is alone."""
    small_corpus(tmp_path / "corpus")
    tree: dict[str, Any] = config_tree(tmp_path / "ws", steps=6, every_steps=2, ranks=1)
    tree["train"]["guard"] = {"step_timeout_s": 2}
    config = write_config(tmp_path / "run.yaml", tree)
    process = start_ranks(config, tmp_path / "corpus", script=harm("stand", 4), ranks=1)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 3, output
    guard = [line for line in read_journal(tmp_path / "ws/runs/small/metrics.jsonl") if line["kind"] == "guard"]
    assert [line["verdict"] for line in guard] == ["hung"]
    assert guard[0]["silent_s"] >= 2
