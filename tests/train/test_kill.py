"""Promises 2 and 3 together: killed at instants of its own choosing and resumed, a run is bitwise the unbroken one."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.monitor.journal import read_journal, unbroken
from pipeline.train.checkpoint import WEIGHTS_NAME, read_checkpoint, steps_saved, verify_checkpoint
from tests.train.small_runs import (
    config_tree,
    curve,
    harm,
    kill_tree,
    run_ranks,
    small_corpus,
    start_ranks,
    write_config,
)

STEPS, EVERY = 12, 3


def kill_when(ready: Callable[[], bool], config: Path, corpus: Path, script: tuple[str, ...]) -> None:
    """Starts the run and kills every process of it, by SIGKILL, when the condition holds. The script holds the run there:
    it may go through the instant faster than this process looks."""
    process = start_ranks(config, corpus, script=script)
    try:
        deadline = time.monotonic() + 300
        while not ready():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the instant to kill at never came"
            time.sleep(0.001)
    finally:
        kill_tree(process)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])  # 2 saves as 1 does; test_elastic.py has all
def test_killed_and_resumed_is_bitwise_the_unbroken_run(tmp_path: Path, stage: int) -> None:
    corpus = tmp_path / "corpus"
    small_corpus(corpus)
    whole = write_config(
        tmp_path / "whole.yaml", config_tree(tmp_path / "whole", steps=STEPS, every_steps=EVERY, stage=stage)
    )
    broken = write_config(
        tmp_path / "broken.yaml", config_tree(tmp_path / "broken", steps=STEPS, every_steps=EVERY, stage=stage)
    )
    run_ranks(whole, corpus)

    run = tmp_path / "broken" / "runs" / "small"
    # Behind the first checkpoint that has Adam's moments: a resume from step 0 would not miss them.
    victim_step = random.Random(stage).randrange(EVERY + 1, STEPS - EVERY)
    # First at a step, once a checkpoint behind step 0 is committed beside training. Then inside a save: while the staging
    # folder of a later checkpoint exists, and not one that the first kill left, which is swept before the resume.
    kill_when(
        lambda: (
            len(unbroken(read_journal(run / "metrics.jsonl"))) >= victim_step
            and max(steps_saved(run / "checkpoints")) >= EVERY
        ),
        broken,
        corpus,
        harm("hang", victim_step + 1),
    )
    before = steps_saved(run / "checkpoints")
    kill_when(
        lambda: (
            resumes(run) == before[-1:]
            and any(int(path.name[6:14]) > max(before) for path in (run / "checkpoints").glob(".step-*.saving"))
        ),
        broken,
        corpus,
        harm("write", 2),  # of the first save: rank 1's state is written, its generators are not
    )
    for step in steps_saved(run / "checkpoints"):
        verify_checkpoint(run / "checkpoints" / f"step-{step:08d}")
    run_ranks(broken, corpus)

    unbroken_run = tmp_path / "whole" / "runs" / "small"
    assert len(resumes(run)) == 2
    assert min(resumes(run)) > 0
    assert curve(run) == curve(unbroken_run)
    final = f"checkpoints/step-{STEPS:08d}"
    assert (run / final / WEIGHTS_NAME).read_bytes() == (unbroken_run / final / WEIGHTS_NAME).read_bytes()
    assert read_checkpoint(run / final).digest == read_checkpoint(unbroken_run / final).digest, "to the last file"
    assert steps_saved(run / "checkpoints") == steps_saved(unbroken_run / "checkpoints") == [0, 3, 6, 9, 12]


def resumes(run: Path) -> list[int]:
    return [line["step"] for line in read_journal(run / "metrics.jsonl") if line["kind"] == "resume"]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "offload"), [(1, "offload_optimizer"), (3, "offload_param")])
def test_what_is_offloaded_resumes_bitwise_too(tmp_path: Path, stage: int, offload: str) -> None:
    corpus = tmp_path / "corpus"
    small_corpus(corpus)
    overrides = ("train.zero.offload_optimizer=cpu", f"train.zero.{offload}=cpu", "train.precision=bf16")
    curves = []
    for name in ("whole", "stopped"):
        tree = config_tree(tmp_path / name, steps=6, every_steps=2, stage=stage)
        config = write_config(tmp_path / f"{name}.yaml", tree)
        if name == "stopped":
            process = start_ranks(config, corpus, *overrides, script=harm("term", 2))
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 75, output
        run_ranks(config, corpus, *overrides)
        curves.append(curve(tmp_path / name / "runs/small"))
    assert len(curves[0]) == 6
    assert curves[0] == curves[1]
    assert resumes(tmp_path / "stopped" / "runs/small") == [2]
