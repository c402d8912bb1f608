"""What a checkpoint must say so that a run goes on from it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.signals import StopNotice
from pipeline.config import load_config
from pipeline.data.position import Position, Window
from pipeline.errors import PipelineError
from pipeline.monitor.journal import Journal
from pipeline.train import resume
from pipeline.train.checkpoint import WEIGHTS_NAME
from pipeline.train.newest import Newest
from pipeline.train.resume import misfit
from pipeline.train.training import Tell, Training
from tests.train.small_runs import ALONE, RECORD, config_tree, small_corpus, write_config
from tests.train.stored_runs import run_at, save

GUARD = Path("runs/small/guard.json")
HERE = Position(manifest_digest="m", order_version=1, seed=0, next_sequence=80)


def test_a_checkpoint_of_this_run_fits() -> None:
    assert misfit(replace(RECORD, config_digest="c", position=HERE), "c", HERE, GUARD) == ""


def test_a_lost_guards_record_is_told_from_another_run() -> None:
    left_out = (Window(first=32, count=8),)
    trained = replace(RECORD, config_digest="c", position=replace(HERE, skipped=left_out))
    assert misfit(trained, "c", HERE, GUARD) == (
        "was trained on other data than runs/small/guard.json leads to, which is gone or not the one of then; "
        'put that one back, or one that says {"skipped":[{"count":8,"first":32}]}'
    )
    all_of_it = replace(RECORD, config_digest="c", position=HERE)
    assert misfit(all_of_it, "c", replace(HERE, skipped=left_out), GUARD).endswith('one that says {"skipped":[]}')
    for other in (replace(HERE, manifest_digest="n"), replace(HERE, seed=1)):
        assert "made by another config or from another corpus" in misfit(trained, "c", other, GUARD)
    assert "made by another config or from another corpus" in misfit(trained, "d", HERE, GUARD)


def a_training(folder: Path, tell: Tell = lambda kind, **figures: None) -> Training:
    config = load_config(write_config(folder / "run.yaml", config_tree(folder / "ws", steps=4, every_steps=2)))
    return Training(
        config=config,
        run=run_at(folder),
        corpus=folder / "corpus",
        manifest=small_corpus(folder / "corpus"),
        world=ALONE,
        notice=StopNotice({}),
        tell=tell,
    )


def test_damage_is_told_from_what_only_may_be_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    training = a_training(tmp_path, lambda kind, **figures: told.append({"kind": kind, **figures}))
    found = Newest(step=None, damaged=("step 4 is damaged",), doubts=("the store is away",))

    def search(*rest: Any, warn: Callable[[str], None], **how: Any) -> Newest:
        warn("step 4 is damaged")
        return found

    monkeypatch.setattr(resume, "newest_good", search)
    with pytest.raises(PipelineError, match="no good checkpoint is left: step 4 is damaged; the store is away"):
        resume.find(training)
    assert told == [
        {"kind": "guard", "verdict": "checkpoint_corrupt", "problem": "step 4 is damaged"},
        {"kind": "guard", "verdict": "remote_doubt", "problem": "the store is away"},
    ]


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(tmp_path: Path) -> None:
    """All of them damaged is an error once; they are set aside then, and the next start finds none."""
    training = a_training(tmp_path)
    run = training.run
    assert resume.find(training) is None
    save(run, 0)
    save(run, 2)
    with Journal(run.metrics) as journal:
        journal.append("checkpoint", step=0)
    for step in (0, 2):
        (run.checkpoint(step) / WEIGHTS_NAME).write_text("flipped")
    with pytest.raises(PipelineError, match=r"no good checkpoint is left: .*step-00000002.*step-00000000"):
        resume.find(training)
    with pytest.raises(PipelineError, match=r"gone, or damaged and set aside.* remove \S*runs/small to begin anew"):
        resume.find(training)
    shutil.rmtree(run.path)
    assert resume.find(training) is None
