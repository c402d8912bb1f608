"""What the command line makes of errors."""

import json
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from pipeline import config
from pipeline.cli import main
from pipeline.errors import Mistake
from pipeline.one_line import one_line_errors, to_copy
from pipeline.workspace import Workspace
from tests.pipeline.test_export import save_checkpoint
from tests.train.small_runs import config_tree, write_config


@pytest.mark.parametrize(("error", "code"), [(Mistake("train.lr: no"), 2), (OSError("the disk is gone"), 3)])
def test_an_error_is_one_line_with_its_notes(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    error.add_note("nor could step 4 be saved")
    with pytest.raises(SystemExit) as ended, one_line_errors(debug=False, as_json=False):
        raise error
    assert ended.value.code == code
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"headrace: {error}; nor could step 4 be saved")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trane"], "No such command 'trane'. Did you mean 'train', 'trace'? (see headrace --help)"),
        (["plan", "a.yaml", "--mfy", "1"], "No such option: --mfy"),
        (["trace", "a.yaml"], "Missing option '--step' (see headrace trace --help)"),
    ],
)
def test_words_that_no_verb_takes_are_one_line_too(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(words, monkeypatch) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"headrace: {said}")
    assert called([*words, "--json"], monkeypatch) == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2


def test_a_line_is_one_write_as_ranks_share_a_log(tmp_path: Path) -> None:
    """A socket of datagrams keeps writes apart. Launchers start ranks with `-u`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        words = [sys.executable, "-u", "-m", "pipeline.cli", "train", str(tmp_path / "none.yaml")]
        assert subprocess.run(words, stderr=theirs, check=False).returncode == 2
        said = ours.recv(1 << 16, socket.MSG_DONTWAIT)
        assert said.startswith(b"headrace: ")
        assert said.endswith(b"\n")
        with pytest.raises(BlockingIOError):
            ours.recv(1, socket.MSG_DONTWAIT)


@pytest.mark.parametrize("main_rank", [True, False])
def test_rank_0_says_for_all_that_it_is_trained(
    main_rank: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path / "run.yaml", config_tree(tmp_path / "ws", steps=8, every_steps=4))
    save_checkpoint(config.load_config(path), Workspace(path=tmp_path / "ws"), 8)
    monkeypatch.setattr("pipeline.train.rank.train_rank", lambda *_: main_rank)
    for words, said in (([], "run small: trained to step 8\n"), (["--json"], '{"run": "small", "step": 8}\n')):
        assert called(["train", str(path), *words], monkeypatch) == 0
        assert capsys.readouterr().out == (said if main_rank else "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_command_that_an_error_proposes_can_be_copied(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path / "my run.yaml", config_tree(tmp_path / "ws", steps=8, every_steps=4))
    assert called(["sample", *options, "--step", "4", str(path), f"workspace={tmp_path}/other"], monkeypatch) == 2
    hint = f"train it with: headrace run '{path}' workspace={tmp_path}/other"
    said = capsys.readouterr()
    assert said.err.endswith(f"{hint}\n")
    assert not options or json.loads(said.out)["error"].endswith(hint)


def test_only_a_command_is_filled_in() -> None:
    said = "CONFIG of `headrace run`: headrace prep CONFIG, then headrace evaluate CONFIG --step 4"
    assert to_copy(said, ["a.yaml", r"name=\1"]) == (
        r"CONFIG of `headrace run`: headrace prep a.yaml 'name=\1', then headrace evaluate a.yaml 'name=\1' --step 4"
    )
    assert to_copy(said, []) == said


def test_ctrl_c_says_that_nothing_is_lost(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "load_config", interrupted)
    assert called(["registry", "a.yaml"], monkeypatch) == 130
    assert capsys.readouterr().err.startswith("headrace: interrupted; what was recorded is kept")


def test_the_version_is_the_installed_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(["--version"], monkeypatch) == 0
    assert capsys.readouterr().out == f"headrace {version('headrace')}\n"


def test_no_words_at_all_show_the_verbs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert not called([], monkeypatch)
    assert "promote" in capsys.readouterr().out


def called(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The exit code of `headrace` and these words."""
    monkeypatch.setattr(sys, "argv", ["headrace", *words])
    try:
        main()
    except SystemExit as ended:
        return ended.code
    return 0
