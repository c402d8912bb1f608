"""Ranks that share sequences train as one rank that has them whole: losses, gradient norms, data and checkpoints."""

import json
from pathlib import Path

import pytest

from pipeline.monitor.journal import read_journal
from pipeline.train.checkpoint import steps_saved
from tests.train.shared_sequences import SIZES, WAYS
from tests.train.small_runs import config_tree, run_ranks, small_corpus, start_script, write_config
from tests.train.test_elastic import digest_of, is_the_run, reload, resumed

Figures = dict[str, list[list[float]]]
SCRIPT = Path(__file__).with_name("shared_sequences.py")


def figures_of(folder: Path, *, ranks: int, peers: int) -> Figures:
    out = folder / f"{ranks}-{peers}.json"
    process = start_script(SCRIPT, out, str(peers), ranks=ranks)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    found: Figures = json.loads(out.read_text())
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    return figures_of(tmp_path_factory.mktemp("alone"), ranks=1, peers=1)


@pytest.mark.slow
def test_losses_and_gradient_norms_of_two_groups_of_two_are_those_of_one_rank(alone: Figures, tmp_path: Path) -> None:
    """Of several steps of two sizes, at every stage. Norms too, for AdamW would hide a gradient that is off by a constant factor."""
    shared = figures_of(tmp_path, ranks=4, peers=2)
    assert shared.keys() == alone.keys() == WAYS.keys()
    for way, steps in shared.items():
        loss_bound, norm_bound = (1e-6, 1e-5) if way.startswith("fp32") else (2e-3, 3e-2)
        assert len(steps) == len(SIZES)
        for (*losses, norm), (*expected, expected_norm) in zip(steps, alone[way], strict=True):
            assert losses == pytest.approx(expected, rel=loss_bound), way
            assert norm == pytest.approx(expected_norm, rel=norm_bound), way


@pytest.mark.slow
def test_a_run_goes_on_with_shared_sequences_and_without(tmp_path: Path) -> None:
    """One rank; then two that share, at stage 3; one; and two that share, at stage 1: the run of one rank."""
    corpus, whole = tmp_path / "corpus", tmp_path / "whole"
    small_corpus(corpus)
    whole.mkdir()
    config = write_config(whole / "run.yaml", config_tree(whole / "ws", steps=8, every_steps=2, ranks=1))
    run_ranks(config, corpus, ranks=1)
    share = "train.sequence_parallel=2"
    two = resumed(whole / "ws", tmp_path / "two", corpus, 2, share, stage=3, ranks=2, micro=4)
    one = resumed(two, tmp_path / "one", corpus, 4, stage=1, ranks=1, micro=2)
    last = resumed(one, tmp_path / "last", corpus, 6, share, stage=1, ranks=2, micro=1)

    journal = read_journal(last / "runs/small/metrics.jsonl")
    is_the_run(journal, read_journal(whole / "ws/runs/small/metrics.jsonl"))
    resumes = [line for line in journal if line["kind"] == "resume"]
    assert [(one["step"], one["world_size"], one["sequence_parallel"]) for one in resumes] == [
        (2, 2, 2),
        (4, 1, 1),
        (6, 2, 2),
    ]


@pytest.mark.slow
def test_the_state_is_bitwise_the_same_with_shared_sequences_and_without(tmp_path: Path) -> None:
    """Three steps of two ranks that share; what each later engine loads it saves again at once."""
    reload(tmp_path, "fp32", "train", "shared", "1", "3", ranks=2, peers=2)
    reload(tmp_path, "fp32", tmp_path / "shared/step-00000001", "alone", "1", ranks=1)
    reload(tmp_path, "fp32", tmp_path / "alone/step-00000000", "again", "3", "1", ranks=2, peers=2)
    folders = [tmp_path / name for name in ("shared", "alone", "again")]
    digests = [digest_of(folder / f"step-{step:08d}") for folder in folders for step in steps_saved(folder)]
    assert len(digests) == 5
    assert len(set(digests)) == 1
