"""`headrace run`, whole and killed: nothing is lost, nothing that was finished is done twice."""

import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.locks import locked
from pipeline.monitor.journal import read_journal, unbroken
from pipeline.train.checkpoint import steps_saved
from tests.e2e.whole_runs import STEPS, config, headrace, start, text
from tests.train.small_runs import write_config


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run that was driven to its end in one go."""
    folder = tmp_path_factory.mktemp("whole")
    text(folder / "text")
    path = config(folder)
    assert headrace("run", path)["worked"]
    return path


def run_folder(config_path: Path) -> Path:
    return config_path.parent / "workspace/runs/whole"


def curve(config_path: Path) -> list[tuple[object, ...]]:
    lines = unbroken(read_journal(run_folder(config_path) / "metrics.jsonl"))
    return [(line["step"], line["loss"], line["batch_digest"]) for line in lines]


@pytest.mark.slow
def test_run_ends_in_a_promoted_verified_model(whole: Path) -> None:
    status = headrace("status", whole)
    assert status["step"] == status["total_steps"] == STEPS
    assert status["job"]["state"] == "succeeded"
    scores = {item["step"]: item["scores"]["heldout/bits_per_byte"]["value"] for item in status["evaluations"]}
    assert list(scores) == [0, 4, 8]
    assert scores[8] < scores[0]
    assert headrace("verify", whole)["verified"]
    assert status["alias"]["step"] in (4, 8)
    assert headrace("registry", whole)["aliases"][0]["alias"]["generation"] == status["alias"]["generation"]
    assert headrace("sample", whole, "--tokens", "20")["text"]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["verify", "sample"])
def test_a_flipped_byte_in_the_promoted_model_is_named(whole: Path, tmp_path: Path, verb: str) -> None:
    workspace = Path(shutil.copytree(whole.parent / "workspace", tmp_path / "workspace"))
    checkpoint = headrace("status", whole, f"workspace={workspace}")["alias"]["checkpoint"]
    weights = Path(checkpoint) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    error = headrace(verb, whole, f"workspace={workspace}", code=3)["error"]
    assert f"{weights} does not match its recorded sha256" in error


@pytest.mark.slow
def test_a_second_run_has_nothing_to_do(whole: Path) -> None:
    before = (run_folder(whole) / "metrics.jsonl").read_bytes()
    assert not headrace("run", whole)["worked"]
    again, _ = start("run", whole).communicate(timeout=300)
    assert again.startswith("run whole: nothing to do")
    assert "held-out bits per byte" in again, "the report is there again, for whoever missed it"
    assert not headrace("prep", whole).get("built", False)
    assert (run_folder(whole) / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 4, 8])
def test_killed_while_it_deletes_it_deletes_the_rest_also_where_a_step_was_saved_anew(
    whole: Path, tmp_path: Path, call: int
) -> None:
    workspace = Path(shutil.copytree(whole.parent / "workspace", tmp_path / "workspace"))
    checkpoints = workspace / "runs/whole/checkpoints"
    words = [str(whole), f"workspace={workspace}", "train.checkpoint.keep_last=1"]
    first, last = (checkpoints / f"step-{step:08d}" for step in (0, STEPS))
    gone = [f"{first.name}.corrupt", f"{first.name}.rewound-1"]
    kept = [f"{last.name}.corrupt", f"{first.name}.rewound-2", f"{last.name}.rewound-2"]
    for name in gone + kept:
        shutil.copytree(first, checkpoints / name)
    headrace("run", *words, script=[Path(__file__).with_name("prune_killed.py"), str(call)], code=-9)
    [half] = checkpoints.glob(".*.deleting")
    assert any(half.iterdir())
    whole_name = checkpoints / half.name.removeprefix(".").removesuffix(".deleting")
    assert not whole_name.exists()
    shutil.copytree(whole.parent / "workspace/runs/whole/checkpoints" / first.name, whole_name)  # it came again
    assert headrace("run", *words)["worked"]
    protected = {f"step-{step:08d}" for step in (4,) if (checkpoints / f"step-{step:08d}").exists()}
    assert {path.name for path in checkpoints.iterdir()} == {last.name, *kept} | protected
    assert headrace("verify", *words)["verified"]
    assert not headrace("run", *words)["worked"]


@pytest.mark.slow
def test_a_changed_config_is_refused_with_its_keys(whole: Path) -> None:
    error = headrace("train", whole, "train.optimizer.lr=1", "cluster.processes_per_node=1", code=2)["error"]
    assert "train.optimizer.lr: 0.003 -> 1.0" in error


@pytest.mark.slow
def test_a_mistake_that_the_ranks_find_is_told_in_their_words(whole: Path, tmp_path: Path) -> None:
    workspace = Path(shutil.copytree(whole.parent / "workspace", tmp_path / "workspace"))
    run = workspace / "runs/whole"
    shutil.rmtree(run / f"checkpoints/step-{STEPS:08d}")  # so that there is something to train
    with locked(run / "train.lock"):
        error = headrace("run", whole, f"workspace={workspace}", code=2)["error"]
    assert error.startswith(f"run whole: training failed: {run} is being trained by another process; ")
    assert f"(all of it: {workspace}/runs/whole/job/log.txt)" in error
    assert "\n" not in error


@pytest.mark.slow
def test_killed_wherever_it_stands_it_goes_on(tmp_path: Path, whole: Path) -> None:
    """SIGKILL to the scheduler in each stage. Its children live on, as they would; the next invocation finds their
    work."""
    text(tmp_path / "text")
    path = config(tmp_path)
    run = run_folder(path)
    kill_when(lambda: any((tmp_path / "workspace/corpora").glob("*")), path)
    kill_when(lambda: len(unbroken(read_journal(run / "metrics.jsonl"))) >= 2, path)
    kill_when(lambda: any((run / "evals").glob("*.json")), path)
    assert headrace("run", path)["worked"]

    lines = read_journal(run / "metrics.jsonl")
    assert curve(path) == curve(whole)
    assert Counter(line["step"] for line in lines if line["kind"] == "eval") == Counter([0, 4, 8])
    # The training job was never disturbed: one start, no resume, no step twice.
    assert Counter(line["kind"] for line in lines if line["kind"] in ("start", "resume", "step")) == {
        "start": 1,
        "step": STEPS,
    }
    assert headrace("verify", path)["verified"]
    assert not headrace("run", path)["worked"]


@pytest.mark.slow
def test_told_to_stop_it_lets_training_save_first(long: Path) -> None:
    said = ended_by(signal.SIGTERM, 75, "run", long)
    assert "headrace: run whole: told to stop; its training saves first\n" in said
    assert said.splitlines()[-1] == "headrace: run whole: stopped on notice; run it again to resume"
    assert_saved_where_it_stopped(run_folder(long))


@pytest.mark.slow
def test_two_ctrl_cs_leave_at_once_and_training_saves_all_the_same(long: Path) -> None:
    said = ended_by(signal.SIGINT, 130, "run", long, script=[Path(__file__).with_name("interrupted_twice.py")])
    assert "is told to save and stop\n" in said
    assert said.splitlines()[-1].startswith("headrace: interrupted; what was recorded is kept")
    while headrace("status", long)["job"]["state"] == "running":
        time.sleep(0.1)
    assert_saved_where_it_stopped(run_folder(long))


@pytest.mark.slow
def test_ctrl_c_to_a_rank_that_is_trained_by_hand_is_a_notice(long: Path) -> None:
    alone = "cluster.processes_per_node=1"
    headrace("prep", long, alone)
    said = ended_by(signal.SIGINT, 75, "train", long, alone)
    assert "told to stop (SIGINT)" in said
    assert "stopped on notice at step" in said.splitlines()[-1]
    assert_saved_where_it_stopped(run_folder(long))


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A run of far more steps than it will come to."""
    text(tmp_path / "text")
    path = config(tmp_path)
    tree = yaml.safe_load(path.read_text())
    tree["train"]["tokens"] = 5_120_000
    return write_config(path, tree)


def ended_by(number: signal.Signals, code: int, verb: str, path: Path, *words: str, **how: Any) -> str:
    """What it says on stderr once it has got the signal, while it trains, and has ended with that code."""
    process = start(verb, path, *words, **how)
    while len(unbroken(read_journal(run_folder(path) / "metrics.jsonl"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    return said


def assert_saved_where_it_stopped(run: Path) -> None:
    lines = read_journal(run / "metrics.jsonl")
    [notice] = [line for line in lines if line["kind"] == "notice"]  # rank 0 may obey before it is told: rank 1 was
    assert all(line["kind"] in ("told", "notice") for line in lines[lines.index(notice) :])
    assert notice["heard_at"] <= notice["time"]
    assert notice["step"] == max(steps_saved(run / "checkpoints"))


def kill_when(ready: Callable[[], bool], path: Path) -> None:
    process = start("run", path)
    deadline = time.monotonic() + 300
    while not ready():
        assert process.poll() is None or ready(), process.communicate()
        assert time.monotonic() < deadline, "the instant to kill at never came"
        time.sleep(0.005)
    process.kill()
    process.communicate()
