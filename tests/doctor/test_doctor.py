"""The whole examination, two DeepSpeed ranks over gloo: green on a sound setting, and each fault found by its check."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from data_prep.files import read_record
from pipeline.doctor.checks import Check
from pipeline.doctor.report import Report
from tests.e2e.test_cli import loaded_by
from tests.e2e.whole_runs import headrace, start
from tests.train.small_runs import config_tree, start_script, write_config

FAULTY = Path(__file__).with_name("faulty.py")
TIMED = {"disk speed", "bandwidth", "slowest rank"}
"""Checks that a loaded machine may fail."""
NOT_ASKED_FOR = {"remote", "remote speed", "shard cache"}
"""Checks of what the small config does without (test_remote.py)."""


def small(folder: Path, **train: Any) -> Path:
    tree: Any = config_tree(folder / "ws", steps=100, every_steps=50)
    tree["data"]["sequence_length"] = 1024
    tree["train"] |= train
    return write_config(folder / "run.yaml", tree)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "train"),
    [
        (0, {}),
        (3, {"sequence_parallel": 2}),
        (1, {"precision": "bf16"}),
        (3, {"optimizer": {"lr": 1e-3, "kind": "muon", "gradient_clipping": 0}}),
    ],
)
def test_a_sound_setting_is_green(tmp_path: Path, stage: int, train: dict[str, Any]) -> None:
    path = small(tmp_path, zero={"stage": stage}, **train)
    record = headrace("doctor", path, "model.qk_norm=true", "model.tie_embeddings=true")
    failed = {check["name"]: check["figure"] for check in record["checks"] if check["result"] != "ok"}
    assert failed.keys() <= TIMED | NOT_ASKED_FOR, failed
    assert record["passed"]
    values = {check["name"]: check["values"] for check in record["checks"]}
    assert ("all-to-all" in values["bandwidth"]["bus_bytes_per_s"]) == ("sequence_parallel" in train)
    gradients = values["gradients"]
    assert 0 < gradients["worst"] < gradients["bound"] / 4, "what two orders of adding up give, and no more"
    assert not (tmp_path / "ws/runs/small/doctor/checkpoints").exists()


def examined(folder: Path, timeout_s: float, *faults: str) -> tuple[dict[str, Check], int, str]:
    process = start_script(FAULTY, small(folder), str(timeout_s), *faults, ranks=2)
    output, _ = process.communicate(timeout=240)
    report = read_record(Report, folder / "ws/runs/small/doctor/report.json")
    return {check.name: check for check in report.checks}, process.returncode, output


@pytest.mark.slow
def test_every_fault_is_found_by_its_own_check_and_the_rank_is_named(tmp_path: Path) -> None:
    """All at once: no failure hides another."""
    faults = ("mix", "clock", "memory", "blind", "disk", "late", "skewed", "streams", "lossy")
    found, code, output = examined(tmp_path, 300, *faults)
    assert code == 0, output
    sound = {"ranks", "devices"}
    assert {name for name, check in found.items() if check.result == "ok"} == sound, found
    assert "torch 2.12.0 on rank 1" in found["versions"].figure or "rank 0" in found["versions"].figure
    assert found["memory"].values["ranks"] == [1]
    assert found["clocks"].values["spread_s"] == pytest.approx(30, abs=1)
    assert found["clocks"].values["rank"] == 1
    assert found["stop notice"].values["unseen"] == [1]
    assert "rank 1: OSError: [Errno 28] No space left on device" in found["disk space"].figure
    assert found["bandwidth"].result == "fail"
    assert found["slowest rank"].values["rank"] == 1
    assert "rank 1's share, counted 1.5" in found["gradients"].advice
    assert found["save and load"].values == {"lost": [1], "apart": [0, 1]}
    assert found["random streams"].values["shared"] == [0, 1]


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_examination_with_a_clear_report(tmp_path: Path) -> None:
    found, code, output = examined(tmp_path, 4, "hang")
    assert code != 0
    assert re.search(r"no check of the doctor has ended for \d+ s", output)
    assert found["ranks"].result == "fail"
    assert re.search(r"did not end within \d+ s", found["ranks"].figure)
    assert "rank 1 in <lambda> (faulty.py" in found["ranks"].figure
    assert "rank 0 in barrier" in found["ranks"].figure
    assert {check.result for name, check in found.items() if name != "ranks"} == {"skip"}


@pytest.mark.slow
def test_a_rank_that_dies_leaves_what_was_found_before(tmp_path: Path) -> None:
    found, code, _ = examined(tmp_path, 300, "die")
    assert code != 0
    assert found["clocks"].result == "ok"
    assert (found["gradients"].result, found["gradients"].figure) == ("fail", "the job ended in this check")
    assert found["save and load"].result == "skip"


@pytest.mark.slow
def test_a_failed_check_is_exit_code_3_and_the_table_says_which(tmp_path: Path) -> None:
    """The kept checkpoints are larger than any disk."""
    process = start("doctor", small(tmp_path, checkpoint={"keep_last": 10**12}), "cluster.processes_per_node=1")
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 3, output + errors
    assert "disk space" in output
    assert "train.checkpoint.keep_last" in output
    assert errors.splitlines()[-1] == "headrace: doctor of small: failed: disk space"
    assert json.loads((tmp_path / "ws/runs/small/doctor/report.json").read_text())["run"] == "small"


def test_the_command_line_loads_nothing_heavy() -> None:
    assert loaded_by("doctor", "--help") == set()
