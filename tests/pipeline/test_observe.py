"""What the scheduler reads off the files: which checkpoints are there, scored and judged."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.job import launcher_for
from cluster.signals import StopNotice
from data_prep.config import HeldoutConfig
from data_prep.manifest import read_manifest
from pipeline import children, scheduler
from pipeline.actions import Evaluate, Prune, State, next_actions
from pipeline.config import RunConfig, load_config
from pipeline.config.tree import MonitorConfig, WandbConfig
from pipeline.errors import CorruptCheckpoint, Mistake
from pipeline.evaluate.stage import evaluate_step
from pipeline.observe import observe
from pipeline.promote.stage import promote_step
from pipeline.runs import pin
from pipeline.train.checkpoint import RECORD_NAME, WEIGHTS_NAME, read_checkpoint
from pipeline.workspace import Workspace, open_workspace
from tests.pipeline.test_export import save_checkpoint
from tests.train.small_runs import config_tree, write_config


@pytest.fixture
def opened(tmp_path: Path) -> tuple[RunConfig, Workspace]:
    """A run with a checkpoint of step 4, scored."""
    tree = config_tree(tmp_path / "ws", steps=8, every_steps=4) | {"promote": {"model": "small"}}
    config = load_config(write_config(tmp_path / "run.yaml", tree))
    workspace = open_workspace(config)
    save_checkpoint(config, workspace, 4)
    corpus = workspace.corpora / "small-1"
    pin(config, workspace.run(config.name), corpus, read_manifest(corpus))
    return config, workspace


def seen(config: RunConfig, workspace: Workspace) -> State:
    return observe(config, workspace, None, launcher_for(config.cluster))


def test_where_nothing_is_held_out_no_evaluation_is_due(opened: tuple[RunConfig, Workspace]) -> None:
    config, workspace = opened
    assert seen(config, workspace).evaluates
    without = replace(config, promote=None, data=replace(config.data, heldout=HeldoutConfig(fraction=0)))
    assert not seen(without, workspace).evaluates


def test_a_step_that_is_saved_anew_is_scored_and_judged_anew(
    opened: tuple[RunConfig, Workspace], tmp_path: Path
) -> None:
    config, workspace = opened
    run = workspace.run(config.name)
    first = promote_step(config, workspace, 4)
    assert (seen(config, workspace).evaluated, seen(config, workspace).decided) == ({4}, {4})

    shutil.move(run.report(4, "heldout"), tmp_path / "report")
    run.checkpoint(4).rename(run.checkpoints / "step-00000004.rewound-1")
    save_checkpoint(config, workspace, 4, seed=5)
    shutil.move(tmp_path / "report", run.report(4, "heldout"))
    state = seen(config, workspace)
    assert (state.saved, state.evaluated, state.decided) == ((4,), set(), set())
    assert Evaluate(4) in next_actions(state)
    with pytest.raises(Mistake, match="step 4 of run small is not evaluated yet"):
        promote_step(config, workspace, 4)
    report = evaluate_step(config, workspace, 4)
    assert report.checkpoint_digest != first.checkpoint.digest
    assert seen(config, workspace).evaluated == {4}
    assert promote_step(config, workspace, 4).checkpoint.digest == report.checkpoint_digest
    assert seen(config, workspace).decided == {4}


def test_a_checkpoint_whose_record_does_not_hold_is_none(opened: tuple[RunConfig, Workspace]) -> None:
    config, workspace = opened
    assert seen(config, workspace).saved == (4,)
    record = workspace.run(config.name).checkpoint(4) / RECORD_NAME
    record.write_bytes(record.read_bytes()[:100])
    assert seen(config, workspace).saved == ()


def test_a_report_that_does_not_hold_is_made_again(opened: tuple[RunConfig, Workspace]) -> None:
    config, workspace = opened
    path = workspace.run(config.name).report(4, "heldout")
    path.write_bytes(path.read_bytes().replace(b'"step": 4', b'"step": 5'))
    assert seen(config, workspace).evaluated == set()
    assert evaluate_step(config, workspace, 4).step == 4
    assert seen(config, workspace).evaluated == {4}


def test_a_rollback_that_sets_a_checkpoint_aside_while_it_is_judged_does_not_end_the_run(
    opened: tuple[RunConfig, Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But damage to one that is there does."""
    config, workspace = opened
    checkpoint = workspace.run(config.name).checkpoint(4)

    def meanwhile(name: str) -> None:
        (checkpoint / name).unlink(missing_ok=True)
        raise CorruptCheckpoint(f"{name} is missing")

    with monkeypatch.context() as patch, StopNotice({}) as notice:
        patch.setattr(scheduler, "promote_step", lambda *rest, **how: meanwhile(WEIGHTS_NAME))
        with pytest.raises(CorruptCheckpoint):
            scheduler._promote(config, workspace, 4, notice)
        checkpoint.rename(checkpoint.with_name(f"{checkpoint.name}.rewound-1"))
        scheduler._promote(config, workspace, 4, notice)
    assert seen(config, workspace).saved == ()


def test_a_rollback_while_a_checkpoint_is_scored_fails_nothing_and_what_bears_its_step_is_scored(
    opened: tuple[RunConfig, Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace = opened
    config = replace(config, promote=None, monitor=MonitorConfig(wandb=WandbConfig(mode="disabled")))
    run = workspace.run(config.name)
    report, spare = run.report(8, "heldout"), tmp_path / "spare"
    save_checkpoint(config, workspace, 8, seed=5)
    run.checkpoint(8).rename(spare)
    report.rename(tmp_path / "report")
    save_checkpoint(config, workspace, 8)
    report.unlink()
    rolls_back = f"os.rename({str(run.checkpoint(8))!r}, {str(run.checkpoint(8)) + '.rewound-1'!r}); "
    rolls_back += f"os.rename({str(spare)!r}, {str(run.checkpoint(8))!r}); sys.exit(3)"
    scores = f"os.rename({str(tmp_path / 'report')!r}, {str(report)!r})"
    ends = iter((rolls_back, scores))
    monkeypatch.setattr(children, "verb", lambda *_: [sys.executable, "-c", f"import os, sys; {next(ends)}"])
    scheduler.run(config, workspace, [], lambda state: None)
    assert seen(config, workspace).evaluated == {4, 8}
    assert next(ends, None) is None


def test_an_evaluation_that_failed_is_not_begun_again_while_its_checkpoint_bears_the_step(
    opened: tuple[RunConfig, Workspace],
) -> None:
    """Without that the run would evaluate it without end, and end well without its score."""
    config, workspace = opened
    run, launcher = workspace.run(config.name), launcher_for(config.cluster)
    run.report(4, "heldout").unlink()
    failed = {read_checkpoint(run.checkpoint(4)).digest}
    state = observe(config, workspace, None, launcher, failed)
    assert state.failed == {4}
    assert Evaluate(4) not in next_actions(state)
    run.checkpoint(4).rename(run.checkpoints / "step-00000004.rewound-1")
    save_checkpoint(config, workspace, 4, seed=5)
    run.report(4, "heldout").unlink()
    state = observe(config, workspace, None, launcher, failed)
    assert (state.failed, Evaluate(4) in next_actions(state)) == (frozenset(), True)


def test_what_a_rollback_has_set_aside_need_not_be_pruned(opened: tuple[RunConfig, Workspace]) -> None:
    config, workspace = opened
    run = workspace.run(config.name)
    scheduler.prune_all(run, Prune((4, 8)))
    assert list(run.checkpoints.iterdir()) == []
