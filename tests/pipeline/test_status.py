"""`status` stays on one screen, however long the run: the record has all of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.config import load_config
from pipeline.promote.registry import rollback
from pipeline.status import evaluation_lines, last_judged, status_record, status_text, steps_text
from pipeline.workspace import open_workspace
from tests.promote.worlds import check_checkpoint, promote_step
from tests.train.small_runs import config_tree, write_config

MEASURE = "heldout/bits_per_byte"


def evaluation(step: int, value: float | None, error: float | None = 0.002) -> dict[str, Any]:
    return {"step": step, "scores": {MEASURE: {"value": value, "standard_error": error}, "other": {"value": 9.0}}}


def record(**changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "run": "long",
        "workspace": {"given": "ws", "path": "/home/ws", "exists": True},
        "job": None,
        "step": 150_000,
        "total_steps": 300_000,
        "loss": None,
        "checkpoints": [],
        "stored": None,
        "warnings": [],
        "evaluations": [],
        "judged": None,
        "alias": None,
    }
    return facts | changes


def test_of_hundreds_of_evaluations_the_last_few_and_the_best_are_shown() -> None:
    found = [evaluation(step, 2 - step / 1e6 + (step > 140_000)) for step in range(0, 150_001, 500)]
    assert evaluation_lines(found, MEASURE) == [
        "evaluated    301 checkpoints, heldout/bits_per_byte; best 1.8600 ± 0.0020 at step 140,000",
        "               step 148,000  2.8520 ± 0.0020",
        "               step 148,500  2.8515 ± 0.0020",
        "               step 149,000  2.8510 ± 0.0020",
        "               step 149,500  2.8505 ± 0.0020",
        "               step 150,000  2.8500 ± 0.0020",
    ]
    long = record(evaluations=found, checkpoints=list(range(500)), stored={"at": "s3://b", "checkpoints": [*range(9)]})
    text = status_text(long, MEASURE).splitlines()
    assert len(text) == 12
    assert "checkpoints  500, the last 5: step 495, step 496, step 497, step 498, step 499" in text
    assert "stored       9, the last 5: step 4, step 5, step 6, step 7, step 8, from here, at s3://b" in text


def test_a_step_that_was_evaluated_again_counts_once_by_its_last_score() -> None:
    found = [evaluation(0, 8.0, None), evaluation(1000, 1.0), evaluation(500, 3.0), evaluation(1000, 2.0)]
    assert evaluation_lines(found, MEASURE) == [
        "evaluated    3 checkpoints, heldout/bits_per_byte; best 2.0000 ± 0.0020 at step 1,000",
        "               step     0  8.0000",
        "               step   500  3.0000 ± 0.0020",
        "               step 1,000  2.0000 ± 0.0020  best",
    ]


def test_a_score_that_is_not_finite_is_shown_and_is_never_the_best() -> None:
    lines = evaluation_lines([evaluation(1, 5.0), evaluation(2, None)], MEASURE)
    assert lines[0].endswith("best 5.0000 ± 0.0020 at step 1")
    assert lines[2].endswith("step 2  not finite")
    assert evaluation_lines([evaluation(2, None)], MEASURE) == [f"evaluated    1 checkpoint, {MEASURE}: not finite"]


def test_one_evaluation_takes_one_line_and_none_takes_none() -> None:
    assert evaluation_lines([evaluation(7, 5.0)], MEASURE) == [
        f"evaluated    1 checkpoint, {MEASURE}: 5.0000 ± 0.0020 at step 7"
    ]
    assert evaluation_lines([evaluation(7, 5.0)], "heldout/prose/bits_per_byte") == []
    assert evaluation_lines([], MEASURE) == []


def test_few_steps_are_all_named() -> None:
    assert steps_text([1, 2, 3, 4, 5000]) == "step 1, step 2, step 3, step 4, step 5,000"
    assert steps_text([]) == ""


def test_what_the_guard_found_is_one_line() -> None:
    found = [{"time": at, "verdict": "replay", "problem": f"the loss of step {at} is nan"} for at in (7, 9)]
    assert "warnings     2, the last: the loss of step 9 is nan" in status_text(record(warnings=found), MEASURE)
    assert "warnings" not in status_text(record(), MEASURE)


def test_what_the_gate_said_last_is_shown_with_its_reason() -> None:
    refused = {"step": 41_000, "verdict": "refuse", "said": "refused", "why": "gain +0.0001, needs 0.001"}
    assert "judged       step 41,000 refused: gain +0.0001, needs 0.001" in status_text(record(judged=refused), MEASURE)
    assert "judged" not in status_text(record(), MEASURE)


def test_a_rollback_is_the_last_word_on_a_checkpoint(tmp_path: Path) -> None:
    tree = config_tree(tmp_path / "ws", steps=8, every_steps=4) | {"promote": {"model": "tiny"}}
    config = replace(load_config(write_config(tmp_path / "run.yaml", tree)), name="test")
    workspace = open_workspace(config)
    promote_step(workspace.path, 90)
    promote_step(workspace.path, 120, worse_by=-0.1)
    rollback(workspace.path, "tiny", "production", check_checkpoint=check_checkpoint, reason="it swears")
    text = status_text(status_record(config, workspace), MEASURE).splitlines()
    assert "judged       step 120 rolled back to step 90: it swears" in text
    assert "alias        tiny@production -> step 90 of test, generation 3" in text
    assert last_judged(replace(config, name="other"), workspace) is None


def test_a_workspace_that_is_not_there_is_told_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path / "run.yaml", config_tree(tmp_path / "ws", steps=8, every_steps=4))
    monkeypatch.chdir(tmp_path)

    def lines(*words: str) -> list[str]:
        monkeypatch.setattr("sys.argv", ["headrace", "status", str(path), *words])
        main()
        return capsys.readouterr().out.splitlines()

    assert f"workspace    {tmp_path}/ws does not exist" in lines()
    relative = "does not exist; elsewhere is taken from the folder that you are in"
    assert f"workspace    {tmp_path}/elsewhere {relative}" in lines("workspace=elsewhere")
    assert sorted(tmp_path.iterdir()) == [path]
    (tmp_path / "ws").mkdir()
    assert not any("workspace" in line for line in lines())
