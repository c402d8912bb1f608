"""What a rank says of its machine, and what is refused before any rank meets another."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.world import World
from pipeline.config import load_config
from pipeline.doctor import job, machine
from pipeline.doctor.machine import clock_offsets, planned_on
from pipeline.errors import Mistake, PipelineError
from pipeline.train.gpus import check_gpus
from pipeline.workspace import RunFolder, open_workspace
from tests.train.small_runs import ALONE, config_tree, write_config


@pytest.mark.parametrize(
    ("device", "name"),
    [
        (None, "cpu"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_devices_by_the_names_that_runs_are_planned_on(device: str | None, name: str | None) -> None:
    assert planned_on(device) == name


def test_a_clock_is_off_by_what_most_rounds_say() -> None:
    """One late rank in one round is no skew."""
    assert clock_offsets([(10.0, 20.0, 30.0), (15.0, 25.0, 35.0), (10.0, 29.0, 30.0)]) == [0.0, 5.0, 0.0]


def test_a_notice_that_is_there_counts_though_this_process_looks_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "SHARED_BOUND_S", -1.0)
    folder = RunFolder(path=tmp_path)
    patient: Any = SimpleNamespace(folder=folder, world=ALONE, together=lambda: None)
    assert machine.wait_for_notice(patient) is not None
    folder.stop.unlink()
    patient.world = SimpleNamespace(is_main=False)
    assert machine.wait_for_notice(patient) is None


def test_more_ranks_than_gpus_are_refused() -> None:
    world = World(rank=3, size=4, local_rank=3, local_size=4, master_addr="", master_port=0)
    check_gpus(world, 0)
    check_gpus(world, 4)
    with pytest.raises(Mistake, match=r"cluster\.processes_per_node: .* has 2 GPUs for 4 ranks"):
        check_gpus(world, 2)
    with pytest.raises(Mistake, match=r"has 1 GPU for 4 ranks; .* \(srun --gpus-per-task"):
        check_gpus(world, 1)


@pytest.mark.parametrize(("code", "error"), [(2, Mistake), (1, PipelineError)])
def test_ranks_that_leave_no_report_are_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[PipelineError]
) -> None:
    """With the exit code of what they said: a mistake stays the user's."""
    config = load_config(
        write_config(tmp_path / "run.yaml", config_tree(tmp_path / "ws", steps=4, every_steps=2, ranks=1))
    )
    workspace = open_workspace(config)

    def said(launcher: object, record: object) -> None:
        (workspace.run("small").path / "doctor/job/log.txt").write_text("headrace: what is wrong\n")

    class Launcher:
        def submit(self, spec: object) -> None:
            (workspace.run("small").path / "doctor/job").mkdir(parents=True)

    monkeypatch.setattr(job, "launcher_for", lambda cluster: Launcher())
    monkeypatch.setattr(job, "relay", said)
    monkeypatch.setattr(job, "load_exit", lambda record: code)
    with pytest.raises(error, match="left no report: what is wrong") as caught:
        job.examine(config, workspace, (), 300)
    assert caught.value.exit_code == (2 if code == 2 else 3)
