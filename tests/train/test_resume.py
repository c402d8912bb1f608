"""What a checkpoint must say so that a run goes on from it."""

from dataclasses import replace
from pathlib import Path

from pipeline.data.position import Position, Window
from pipeline.train.resume import misfit
from tests.train.small_runs import RECORD

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
