"""The real trainer as a job: two nodes of a real Slurm, two nodes of a real Ray, two DeepSpeed ranks that share a model."""

from pathlib import Path

import pytest

from pipeline.monitor.journal import read_journal, unbroken
from pipeline.train.checkpoint import verify_checkpoint
from tests.e2e.whole_runs import STEPS, config, headrace, text
from tests.labs import wait_for

ENDED = ("succeeded", "failed", "stopped", "cancelled")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose corpus is built."""
    folder = tmp_path_factory.mktemp("jobs")
    text(folder / "text")
    path = config(folder)
    headrace("prep", path)
    return path


def state(path: Path, *words: str) -> str:
    return str(headrace("status", path, *words)["job"]["state"])


def log(path: Path, run: str) -> str:
    return (path.parent / f"workspace/runs/{run}/job/log.txt").read_text()


def trains_over_two_nodes(path: Path, run: str, *words: str) -> None:
    """Submits, waits for the end, and looks at what was made."""
    words = (f"name={run}", *words)
    assert headrace("submit", path, *words)["id"]
    wait_for(lambda: state(path, *words) in ENDED, f"the end of {run}")
    assert state(path, *words) == "succeeded", log(path, run)
    folder = path.parent / "workspace/runs" / run
    checkpoint = verify_checkpoint(folder / "checkpoints" / f"step-{STEPS:08d}")
    assert checkpoint.world_size == 2
    assert {name for name in checkpoint.files if name.startswith("state-")} == {
        "state-00000.safetensors",
        "state-00001.safetensors",
    }
    losses = [line["loss"] for line in unbroken(read_journal(folder / "metrics.jsonl"))]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]
    assert log(path, run).count("trained to step") == 1, "rank 0 speaks for all"


@pytest.mark.slow
def test_slurm_trains_over_two_nodes(prepared: Path, slurm: Path) -> None:
    words = ("cluster.launcher=slurm", "cluster.nodes=2", "cluster.processes_per_node=1")
    assert "--nodes=2" in headrace("submit", prepared, *words, "--dry-run")["preview"]
    trains_over_two_nodes(prepared, "whole", *words)


@pytest.mark.slow
def test_slurm_examines_two_nodes(prepared: Path, slurm: Path) -> None:
    """The doctor's ranks are started as training's: its report is of the cluster."""
    record = headrace(
        "doctor", prepared, "name=examined", "cluster.launcher=slurm", "cluster.nodes=2", "cluster.processes_per_node=1"
    )
    found = {check["name"]: check for check in record["checks"]}
    assert found["ranks"]["values"] == {"ranks": 2, "asked": 2, "nodes": 2}
    assert {found[name]["result"] for name in ("gradients", "save and load", "random streams", "stop notice")} == {"ok"}


@pytest.mark.slow
def test_slurm_cancel_saves_and_a_new_job_goes_on(prepared: Path, slurm: Path, tmp_path: Path) -> None:
    text(tmp_path / "text")
    path = config(tmp_path)
    words = (
        "cluster.launcher=slurm",
        "cluster.nodes=2",
        "cluster.processes_per_node=1",
        "train.tokens=5120000",
    )  # far more than it will come to
    headrace("prep", path)
    headrace("submit", path, *words)
    metrics = tmp_path / "workspace/runs/whole/metrics.jsonl"
    wait_for(lambda: len(unbroken(read_journal(metrics))) >= 3, "three steps")
    headrace("cancel", path, *words)
    wait_for(lambda: state(path, *words) in ENDED, "the end of the cancelled job")
    assert state(path, *words) == "cancelled"
    saved = headrace("status", path, *words)["checkpoints"][-1]
    lines = read_journal(metrics)
    assert saved == unbroken(lines)[-1]["step"], "stopped on notice: the last step done is the last one saved"
    headrace("submit", path, *words)
    wait_for(lambda: any(line["kind"] == "resume" for line in read_journal(metrics)), "the resume")
    assert next(line for line in read_journal(metrics) if line["kind"] == "resume")["step"] == saved
    headrace("cancel", path, *words)
    wait_for(lambda: state(path, *words) in ENDED, "the end of the second job")


@pytest.mark.slow
def test_ray_trains_over_two_nodes(tmp_path: Path, ray_address: str) -> None:
    text(tmp_path / "text")
    path = config(tmp_path)
    headrace("prep", path)
    trains_over_two_nodes(
        path,
        "whole",
        "cluster.launcher=ray",
        f"cluster.ray.address={ray_address}",
        "cluster.nodes=2",
        "cluster.processes_per_node=1",
    )
