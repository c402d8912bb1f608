"""What `headrace run` shows of a run, from its journal and from how far its evaluations are."""

from pathlib import Path

import pytest

from pipeline.config import RunConfig, load_config
from pipeline.monitor.journal import Journal
from pipeline.monitor.views import RunWatch, Scoring, run_progress
from pipeline.workspace import RunFolder
from tests.train.small_runs import config_tree, write_config


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return load_config(write_config(tmp_path / "run.yaml", config_tree(tmp_path / "ws", steps=6, every_steps=2)))


def scoring(step: int | None, done: int, *, beside_training: bool = False) -> Scoring:
    return Scoring(step=step, done=done, total=4, beside_training=beside_training)


def shown(said: str) -> list[str]:
    """Without the time of day and the durations."""
    return [line[9:].split(" · ")[0] for line in said.splitlines()]


def test_evaluations_behind_training_are_a_thing_of_their_own(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(path=tmp_path)
    with run_progress(config, run) as watch, Journal(run.metrics) as journal:
        journal.append("start", run="small")
        for step in range(1, 7):
            journal.append("step", step=step, loss=2.0)
            watch(scoring(0, 0, beside_training=True))
        for done, step in ((2, 4), (3, 6), (4, None)):
            watch(scoring(step, done))
    assert shown(capsys.readouterr().err) == [
        "train  1 of 6 steps (16 %)",
        "train  6 of 6 steps (100 %)",
        "evaluate  3 of 4 checkpoints (75 %)",
        "evaluate  4 of 4 checkpoints (100 %)",
    ]


def test_training_that_begins_again_is_shown_again(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(path=tmp_path)
    with run_progress(config, run) as watch, Journal(run.metrics) as journal:
        watch(scoring(0, 0))
        journal.append("resume", step=2)
        journal.append("step", step=3, loss=2.0)
        watch(scoring(None, 1, beside_training=True))
    assert shown(capsys.readouterr().err)[-1] == "train  3 of 6 steps (50 %)"


def test_what_came_last_is_shown_too(config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A notice ends the watch while training still saves."""
    run = RunFolder(path=tmp_path)
    watch = RunWatch(config, run)
    with Journal(run.metrics) as journal:
        journal.append("step", step=3, loss=2.0)
        journal.append("notice", step=3, reason="SIGINT", rank=0)
    watch.close()
    assert "told to stop (SIGINT): step 3 is saved" in capsys.readouterr().err
