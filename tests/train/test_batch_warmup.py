"""Batches that grow: gradients are means over the whole batch at every ZeRO stage, and a resume behind any stage goes on
bit by bit, with the same batches in every world."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.small import write_small_corpus
from data_prep.weights import BLOCK
from pipeline.config import load_config
from pipeline.data.order import order_of_config
from pipeline.monitor.journal import read_journal, unbroken
from pipeline.train.checkpoint import WEIGHTS_NAME, read_checkpoint, steps_saved
from tests.train.small_runs import config_tree, run_ranks, sentences, start_script, write_config

LENGTH = 16


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_torch_alone_at_every_stage(tmp_path: Path) -> None:
    """Each step's loss shows the updates before it, so a step taken too early or averaged wrongly shows."""
    out = tmp_path / "figures.json"
    process = start_script(Path(__file__).with_name("growing_batches.py"), out, ranks=2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    figures = json.loads(out.read_text())
    expected = figures.pop("torch")
    assert {f"stage {stage}" for stage in range(4)} < figures.keys()
    for name, found in figures.items():
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4), name


def a_run(folder: Path) -> Path:
    """Batches of 512, then 1,536, then 2,048 sequences: 1, 3 and 4 micro-batches a rank. Three blocks of the mixture;
    the code comes with the second, and is all of the third."""
    tree: dict[str, Any] = config_tree(folder / "ws", steps=1, every_steps=1)
    tree["train"] |= {
        "tokens": (2 * 512 + 2 * 1536 + 4 * 2048) * LENGTH,
        "global_batch_size": 2048,
        "batch_warmup": [
            {"global_batch_size": 512, "tokens": 2 * 512 * LENGTH},
            {"global_batch_size": 1536, "tokens": 2 * 1536 * LENGTH},
        ],
        "micro_batch_size": 256,
    }
    tree["data"]["sequence_length"] = LENGTH
    prose, code = tree["data"]["sources"]
    prose["weight"] = [{"start": 0, "weight": 0.7}, {"start": 0.7, "weight": 0}]
    code["weight"] = [{"start": 0, "weight": 0}, {"start": 0.3, "weight": 0.3}]
    tree["model"] = {"layers": 1, "width": 16, "heads": 2}
    return write_config(folder / "run.yaml", tree)


def resumed(whole: Path, folder: Path, after: int, *overrides: str, ranks: int = 2) -> Path:
    """Goes on with a copy of the whole run behind a step; gives the run's folder."""
    shutil.copytree(whole / "ws", folder / "ws")
    run = folder / "ws/runs/small"
    for step in steps_saved(run / "checkpoints"):
        if step > after:
            shutil.rmtree(run / f"checkpoints/step-{step:08d}")
    places = (f"workspace={folder / 'ws'}", f"cluster.processes_per_node={ranks}")
    run_ranks(whole / "run.yaml", whole / "corpus", *places, *overrides, ranks=ranks)
    return run


@pytest.mark.slow
def test_a_run_with_growing_batches_and_changing_weights_resumes(tmp_path: Path) -> None:
    whole, steps = tmp_path / "whole", 8
    whole.mkdir()
    documents = {"prose": sentences("prose", 120), "code": sentences("code", 60)}
    manifest = write_small_corpus(whole / "corpus", documents, sequence_length=LENGTH, sequences_per_shard=256)
    config = load_config(a_run(whole))
    run_ranks(whole / "run.yaml", whole / "corpus")
    expected = unbroken(read_journal(whole / "ws/runs/small/metrics.jsonl"))

    order = order_of_config(config, manifest)
    assert [change.first_block for change in order.mixture.changes] == [1, 2]
    ends = [512, 1024, 2560, 4096, 6144, 8192, 10240, 12288]
    assert [line["tokens"] for line in expected] == [end * LENGTH for end in ends]
    batches = [range(first, end) for first, end in zip([0, *ends], ends, strict=False)]
    assert [line["batch_digest"] for line in expected] == [order.batch_digest(batch) for batch in batches]
    sources = [set(order.locate(np.arange(batch.start, batch.stop)).source.tolist()) for batch in batches]
    assert sources == [{0}] * 4 + [{0, 1}] * 2 + [{1}] * 2
    last = f"checkpoints/step-{steps:08d}"
    assert read_checkpoint(whole / "ws/runs/small" / last).position.next_sequence == 3 * BLOCK

    # Behind the first step of the second stage: the same bits.
    same = resumed(whole, tmp_path / "same", 3)
    figures = ("step", "tokens", "loss", "grad_norm", "lr", "batch_digest")
    found = unbroken(read_journal(same / "metrics.jsonl"))
    assert [[line[key] for key in figures] for line in found] == [[line[key] for key in figures] for line in expected]
    weights = [(run / last / WEIGHTS_NAME).read_bytes() for run in (same, whole / "ws/runs/small")]
    assert weights[0] == weights[1]

    # Behind the first stage alone, with micro-batches of 512 at ZeRO stage 3: the same batches.
    other = ("train.micro_batch_size=512", "train.zero.stage=3")
    elsewhere = unbroken(read_journal(resumed(whole, tmp_path / "other", 2, *other, ranks=1) / "metrics.jsonl"))
    for key in ("step", "tokens", "lr", "batch_digest"):
        assert [line[key] for line in elsewhere] == [line[key] for line in expected]
    for ours, theirs in zip(elsewhere, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5), ours["step"]
