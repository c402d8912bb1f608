"""The command line: light to start, and every mistake ends in one line with its exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.files import write_record
from pipeline.config import load_config, weight_shaping
from pipeline.runs import RunState
from pipeline.workspace import Workspace
from tests.e2e.whole_runs import config, headrace, text

HEAVY = {"torch", "deepspeed", "ray", "pyarrow", "wandb"}


def loaded_by(*words: str) -> set[str]:
    """The heavy packages that a headrace process has imported by its end."""
    script = (
        "import sys\nfrom pipeline import cli\nsys.argv[1:] = sys.argv[1:]\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        f"print('loaded', *sorted({HEAVY!r} & sys.modules.keys()))"
    )
    out = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True).stdout
    return set(out.splitlines()[-1].split()[1:])


def test_help_status_and_dry_runs_load_nothing_heavy(tmp_path: Path) -> None:
    text(tmp_path / "text")
    path = str(config(tmp_path))
    assert loaded_by("--help") == set()
    assert loaded_by("run", "--help") == set()
    assert loaded_by("status", path) == set()
    assert loaded_by("submit", path, "cluster.launcher=slurm", "cluster.nodes=2", "--dry-run") == set()


def failing(verb: str, *words: str | Path) -> tuple[int, str]:
    """Exit code and stderr of a verb that fails."""
    process = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", verb, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert process.stdout == ""
    return process.returncode, process.stderr


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.tokns=1", ["train.tokns", "did you mean 'tokens'"]),
        ("data.sources.0.path=/nowhere/*.jsonl", ["/nowhere"]),
        ("train.global_batch_size=9", ["train.global_batch_size", "8, 12"]),
        ("workspace=/proc/nope", ["/proc/nope", "choose a folder you may write to"]),
    ],
)
def test_mistakes_end_in_one_line_and_exit_code_2(tmp_path: Path, override: str, words: list[str]) -> None:
    text(tmp_path / "text")
    code, error = failing("prep", config(tmp_path), override)
    assert code == 2
    assert error.startswith("headrace: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error


def test_run_with_another_config_than_the_run_began_with_is_a_mistake(tmp_path: Path) -> None:
    """Not nothing to do, where the run is trained."""
    path = config(tmp_path)
    workspace, begun = Workspace(path=tmp_path / "workspace"), load_config(path)
    pins = RunState(
        run="whole",
        config_digest=begun.digest,
        weight_shaping=weight_shaping(begun),
        corpus="whole-0123456789abcdef",
        manifest_digest="",
    )
    write_record(workspace.run("whole").state, pins)
    code, error = failing("run", path, "train.optimizer.lr=1")
    assert (code, error.count("\n")) == (2, 1), error
    assert "run whole began with another config (train.optimizer.lr: " in error


def test_json_errors_are_records_too(tmp_path: Path) -> None:
    record = headrace("train", tmp_path / "none.yaml", code=2)
    assert record["exit_code"] == 2
    assert "none.yaml" in record["error"]


@pytest.mark.parametrize(
    ("verb", "hint"),
    [
        ("train", "headrace prep"),
        ("evaluate", "headrace run"),
        ("sample", "headrace run"),
        ("logs", "headrace submit"),
        ("cancel", "headrace submit"),
        ("verify", "no promoted model"),
        ("rollback", "no promoted model"),
        ("submit", "headrace prep"),
    ],
)
def test_a_verb_that_comes_too_early_says_what_comes_first(tmp_path: Path, verb: str, hint: str) -> None:
    text(tmp_path / "text")
    code, error = failing(verb, config(tmp_path, cluster={"processes_per_node": 1}))
    assert code == 2, error
    assert hint in error
    assert error.count("\n") == 1


def test_a_prompt_in_another_encoding_is_a_mistake(tmp_path: Path) -> None:
    code, error = failing("sample", config(tmp_path), "--prompt", "caf\udce9")
    assert (code, error.count("\n")) == (2, 1), error
    assert error.startswith("headrace: --prompt: 'caf\\udce9' is no UTF-8 text")


@pytest.mark.parametrize(
    ("verb", "option"), [("plan", "--price-per-gpu-hour"), ("plan", "--mfu"), ("sample", "--temperature")]
)
def test_a_number_that_is_none_is_a_mistake(tmp_path: Path, verb: str, option: str) -> None:
    code, error = failing(verb, config(tmp_path), option, "nan")
    assert code == 2
    assert option in error


def test_an_unknown_verb_is_exit_code_2(tmp_path: Path) -> None:
    code, _ = failing("trane", tmp_path)
    assert code == 2


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    code, error = failing("train", tmp_path / "none.yaml", "--debug")
    assert code != 0
    assert "Traceback" in error


def test_status_of_nothing_is_still_an_answer(tmp_path: Path) -> None:
    status = headrace("status", config(tmp_path))
    assert status == json.loads(json.dumps(status))
    assert (status["step"], status["job"], status["alias"]) == (0, None, None)
