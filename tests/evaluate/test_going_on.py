"""An evaluation that is killed or stopped goes on with the batch it was at, and ends with the report of an unbroken
one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from data_prep.files import digest, sha256_file, write_record
from pipeline.config import load_config
from pipeline.evaluate import stage
from pipeline.evaluate.heldout import score_key
from pipeline.evaluate.scored import Scored
from pipeline.model.decoder import build
from pipeline.monitor.journal import Journal, read_journal
from pipeline.train.checkpoint import RECORD_NAME, WEIGHTS_NAME, FileRecord, sealed
from pipeline.workspace import RunFolder, open_workspace
from tests.train.small_runs import RECORD, config_tree, small_corpus, write_config
from tests.warm import ROOT

SCRIPT = Path(__file__).with_name("evaluate_harmed.py")
BATCHES = [[1.5, 0.1 + 0.2], [float("nan")], [], [float("inf"), 1e-300]]


def run_with_a_checkpoint(folder: Path) -> tuple[Path, RunFolder]:
    """A run that is at step 0, with random weights: its config, and its folder."""
    manifest = small_corpus(folder / "ws/corpora/small")
    config = write_config(folder / "run.yaml", config_tree(folder / "ws", steps=6, every_steps=2))
    run = RunFolder(path=folder / "ws/runs/small")
    path = run.checkpoint(0)
    path.mkdir(parents=True)
    model = build(RECORD.model, manifest.vocab_size, manifest.end_of_text_id, seed=0)
    save_file(model.state_dict(), path / WEIGHTS_NAME)
    weights = FileRecord(size_bytes=(path / WEIGHTS_NAME).stat().st_size, sha256=sha256_file(path / WEIGHTS_NAME))
    record = replace(
        RECORD,
        vocab_size=manifest.vocab_size,
        end_of_text_id=manifest.end_of_text_id,
        tokenizer_sha256=manifest.tokenizer_sha256,
        corpus="small",
        files={WEIGHTS_NAME: weights},
    )
    write_record(path / RECORD_NAME, sealed(record))
    return config, run


def evaluate(config: Path, signal: str, call: int) -> tuple[int, str]:
    """The exit code of an evaluation that is hit at that batch, and what it said."""
    done = subprocess.run(
        [sys.executable, SCRIPT, signal, str(call), config],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr


def num_scored(run: RunFolder) -> int:
    return len((run.evals / "step-00000000.heldout.scored").read_text().splitlines())


NEVER = 10**6


def test_killed_and_stopped_it_goes_on_to_the_same_report(tmp_path: Path) -> None:
    config, run = run_with_a_checkpoint(tmp_path / "whole")
    code, said = evaluate(config, "SIGKILL", NEVER)
    assert code == 0, said
    unbroken = run.report(0, "heldout").read_bytes()

    config, run = run_with_a_checkpoint(tmp_path / "broken")
    assert evaluate(config, "SIGKILL", 4)[0] == -9
    assert num_scored(run) == 3
    code, said = evaluate(config, "SIGTERM", 2)
    assert code == 75, said
    assert "headrace: stopped on notice while a checkpoint was scored; run it again and it goes on" in said
    assert num_scored(run) == 5, "the batch that the notice came in is scored to its end"
    assert not run.report(0, "heldout").exists()
    with (run.evals / "step-00000000.heldout.scored").open("ab") as file:
        file.write(b'{"nlls": [1.0')  # as a crash of the machine may leave it
    assert evaluate(config, "SIGKILL", 2)[0] == -9
    assert num_scored(run) == 6
    assert evaluate(config, "SIGKILL", NEVER)[0] == 0
    assert run.report(0, "heldout").read_bytes() == unbroken
    assert not list(run.evals.glob("*.scored"))
    assert [line["kind"] for line in read_journal(run.metrics)] == ["eval"]


def test_a_crash_beside_the_report_neither_loses_nor_doubles_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_path, run = run_with_a_checkpoint(tmp_path)
    config = load_config(config_path)
    workspace = open_workspace(config)

    def crash(*rest: object, **figures: object) -> None:
        raise KeyboardInterrupt

    for owner, name in ((Journal, "append"), (stage, "write_report")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, crash)
            with pytest.raises(KeyboardInterrupt):
                stage.evaluate_step(config, workspace, 0)
        assert not run.report(0, "heldout").exists()
    report = stage.evaluate_step(config, workspace, 0)
    assert stage.evaluate_step(config, workspace, 0) == report
    [line] = read_journal(run.metrics)
    assert (line["kind"], line["report"]) == ("eval", report.digest)
    run.metrics.unlink()  # as a crash of older versions left it
    stage.evaluate_step(config, workspace, 0)
    assert [line["report"] for line in read_journal(run.metrics)] == [report.digest]


def test_what_was_scored_of_another_checkpoint_is_not_taken_over(tmp_path: Path) -> None:
    config, run = run_with_a_checkpoint(tmp_path)
    assert evaluate(config, "SIGKILL", 4)[0] == -9
    record = run.checkpoint(0) / RECORD_NAME
    changed = json.loads(record.read_text())
    write_record(
        record,
        sealed(
            replace(
                RECORD,
                **{
                    **changed,
                    "tokens": 1,
                    "position": RECORD.position,
                    "model": RECORD.model,
                    "files": {name: FileRecord(**one) for name, one in changed["files"].items()},
                },
            )
        ),
    )
    assert evaluate(config, "SIGKILL", 2)[0] == -9
    assert num_scored(run) == 1


def test_the_key_says_what_the_numbers_depend_on() -> None:
    device = torch.device("cpu")
    keys = [
        score_key("a", "b", 64, device),
        score_key("c", "b", 64, device),
        score_key("a", "c", 64, device),
        score_key("a", "b", 32, device),
    ]
    assert len({*keys}) == 4
    assert keys[0] == score_key("a", "b", 64, device)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert score_key("a", "b", 64, device) != keys[0], "sums come out another way"
    finally:
        torch.set_num_threads(threads)


def kept(path: Path, key: str, batches: list[list[float]]) -> list[list[float]]:
    """What was there before these were added."""
    with Scored(path, key) as scored:
        for batch in batches:
            scored.keep(batch)
        return scored.known


def test_numbers_come_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "evals/scored"
    assert kept(path, digest("a"), BATCHES[:2]) == []
    assert [[one.hex() for one in batch] for batch in kept(path, digest("a"), BATCHES[2:])] == [
        [one.hex() for one in batch] for batch in BATCHES[:2]
    ]
    assert [[one.hex() for one in batch] for batch in kept(path, digest("a"), [])] == [
        [one.hex() for one in batch] for batch in BATCHES
    ]
    assert kept(path, digest("b"), []) == []
    assert path.read_bytes() == b"", "what was scored of something else makes room"


@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_whatever_byte_is_damaged_no_wrong_number_is_taken_over(
    tmp_path_factory: pytest.TempPathFactory, place: int, flip: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "scored"
    batches = [[1.0, 2.0], [3.0], [4.0, 5.0]]
    kept(path, digest("a"), batches)
    data = bytearray(path.read_bytes())
    at = place % len(data)
    line = data[:at].count(b"\n")
    data[at] ^= flip
    path.write_bytes(data)
    found = kept(path, digest("a"), [])
    assert found == batches[: len(found)]
    assert len(found) >= line
    assert kept(path, digest("a"), batches[len(found) :]) == found
    assert kept(path, digest("a"), []) == batches
