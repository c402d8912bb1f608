"""A notice to stop is obeyed at whatever moment it comes: every rank at the same step, saved, and no step lost."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.locks import locked
from pipeline.monitor.journal import Journal, read_journal, unbroken
from pipeline.train.checkpoint import steps_saved, verify_checkpoint
from tests.e2e.whole_runs import headrace
from tests.train.small_runs import config_tree, harm, run_ranks, small_corpus, start_ranks, write_config

STEPS = 6


@pytest.fixture
def config(tmp_path: Path) -> Path:
    small_corpus(tmp_path / "corpus")
    return write_config(tmp_path / "run.yaml", config_tree(tmp_path / "ws", steps=STEPS, every_steps=2))


def stop_by(config: Path, **start: Any) -> None:
    process = start_ranks(config, config.with_name("corpus"), **start)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 75, output


def kinds(config: Path) -> list[tuple[str, int | None]]:
    """The journal but for its steps."""
    lines = read_journal(config.with_name("ws") / "runs/small/metrics.jsonl")
    return [(line["kind"], line.get("step", 0)) for line in lines if line["kind"] != "step"]


def trained(config: Path) -> list[int]:
    """Every step that was ever taken, also those that were lost."""
    lines = read_journal(config.with_name("ws") / "runs/small/metrics.jsonl")
    assert [line["step"] for line in unbroken(lines)] == [line["step"] for line in lines if line["kind"] == "step"]
    return [line["step"] for line in lines if line["kind"] == "step"]


@pytest.mark.slow
def test_a_notice_to_one_rank_during_a_save_ends_all_right_after_it(config: Path) -> None:
    stop_by(config, script=harm("term", 2))  # the second save, that of step 2
    assert kinds(config) == [("start", 0), ("checkpoint", 0), ("checkpoint", 2), ("notice", 2)], "only rank 1 was told"
    line = read_journal(config.with_name("ws") / "runs/small/metrics.jsonl")[-1]
    assert (line["reason"], line["rank"]) == ("SIGTERM", 1)
    assert trained(config) == [1, 2]
    checkpoints = config.with_name("ws") / "runs/small/checkpoints"
    assert steps_saved(checkpoints) == [0, 2]
    verify_checkpoint(checkpoints / "step-00000002")
    run_ranks(config, config.with_name("corpus"))
    assert trained(config) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_control_file_that_is_there_before_the_first_step_is_obeyed_before_it(config: Path) -> None:
    stop = config.with_name("ws") / "runs/small/stop"
    stop.parent.mkdir(parents=True)
    stop.touch()
    stop_by(config)
    found = kinds(config)
    found.remove(("told", 0))  # by a thread, before the start or behind it
    assert found == [("start", 0), ("checkpoint", 0), ("notice", 0)]
    assert trained(config) == []
    stop.unlink()
    run_ranks(config, config.with_name("corpus"))
    assert trained(config) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_notice_is_in_the_journal_while_the_ranks_still_wait_for_each_other(config: Path) -> None:
    """Rank 0 waits for rank 1 in the collectives of step 3. Rank 1 comes once it has read in the journal that rank 0
    was told: if rank 0 could not say so from there, this would hang until the watchdog bites."""
    run = config.with_name("ws") / "runs/small"
    process = start_ranks(config, config.with_name("corpus"), script=harm("late", 3))
    while not (run / "late").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.kill(process.pids[0], signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert "rank 0: told to stop (SIGTERM)" in output, output
    # The line of checkpoint 2 comes with the step's: the thread alone speaks before that.
    assert kinds(config)[-4:] == [("told", 0), ("checkpoint", 2), ("checkpoint", 3), ("notice", 3)]
    told, notice = (line for line in read_journal(run / "metrics.jsonl") if line["kind"] in ("told", "notice"))
    assert (told["reason"], told["rank"]) == (notice["reason"], notice["rank"]) == ("SIGTERM", 0)
    assert told["heard_at"] == notice["heard_at"] <= told["time"] <= notice["time"]
    rounding_s = 0.002
    since_told_s, since_heard_s = notice["time"] - told["time"], notice["time"] - notice["heard_at"]
    assert since_heard_s - since_told_s - rounding_s <= notice["waited_s"] <= since_heard_s + rounding_s


@pytest.mark.slow
def test_a_notice_while_a_checkpoint_is_verified_ends_all_ranks_before_it_is_loaded(config: Path) -> None:
    run = config.with_name("ws") / "runs/small"
    stop_by(config, script=harm("term", 2))
    stop_by(config, script=harm("verify", 2))
    assert kinds(config)[-2:] == [("told", 0), ("notice", None)]
    assert not list((run / "checkpoints").glob("*.corrupt"))
    run_ranks(config, config.with_name("corpus"))
    assert trained(config) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_cancel_makes_the_control_file_of_a_run_that_is_trained_by_hand(config: Path) -> None:
    run = config.with_name("ws") / "runs/small"
    headrace("cancel", config, code=2)
    assert not (run / "stop").exists()
    with Journal(run / "metrics.jsonl") as journal:
        journal.append("start", run="small")
    with locked(run / "train.lock"):  # as rank 0 holds it
        assert headrace("cancel", config)["stop"] == str(run / "stop")
    assert (run / "stop").exists()


@pytest.mark.slow
def test_cancel_of_a_run_that_was_trained_by_hand_leaves_no_control_file(config: Path) -> None:
    run_ranks(config, config.with_name("corpus"))
    record = headrace("cancel", config)
    assert (record["state"], record["stop"]) == ("succeeded", None), record
    assert not (config.with_name("ws") / "runs/small/stop").exists()
