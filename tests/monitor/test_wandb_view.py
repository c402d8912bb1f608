"""The wandb view with the real wandb, offline: its files are read back."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.monitor import wandb_run, wandb_view
from pipeline.monitor.journal import Journal, read_journal, unbroken
from pipeline.monitor.wandb_run import has_key, resolve_mode, shown_figures
from pipeline.monitor.wandb_view import WandbView

from .wandb_files import logged_history, records, run_records, segments


@pytest.fixture(autouse=True)
def nobodys_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield
    if "wandb" in sys.modules:
        import wandb

        wandb.teardown()


def view(folder: Path, mode: Any = "offline", **options: Any) -> WandbView:
    return WandbView(folder, project="test", mode=mode, run_name="tiny", run_id="f00", config={"lr": 0.1}, **options)


def write_steps(folder: Path, first: int, last: int, shift: float = 0.0) -> None:
    with Journal(folder / "metrics.jsonl") as journal:
        for step in range(first, last + 1):
            journal.append("step", step=step, tokens=step * 64, loss=5.0 / step + shift, lr=0.1, grad_norm=1.0)


def resume(folder: Path, step: int) -> None:
    with Journal(folder / "metrics.jsonl") as journal:
        journal.append("resume", step=step)


def curve(points: list[dict[str, Any]], name: str = "train/loss") -> dict[int, float]:
    """As a chart over the training step: where a step was logged twice, the later point."""
    return {point["train/step"]: point[name] for point in points if name in point}


def journal_curve(folder: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in unbroken(read_journal(folder / "metrics.jsonl"))}


def test_two_segments_under_one_id_are_one_curve(tmp_path: Path) -> None:
    """Preempted at step 25, resumed from 20, trained on to 40: each step once, none missing."""
    with view(tmp_path) as first:
        for step in range(1, 26):
            write_steps(tmp_path, step, step)
            first.catch_up()
    resume(tmp_path, 20)
    with view(tmp_path) as second:
        write_steps(tmp_path, 21, 40)
        second.catch_up()
    assert len(segments(tmp_path)) == 2
    assert {run.run_id for run in run_records(tmp_path)} == {"f00"}
    points = logged_history(tmp_path)
    assert curve(points) == journal_curve(tmp_path)
    assert [point["train/step"] for point in points] == list(range(1, 41))
    assert json.loads(next(i for i in run_records(tmp_path)[0].config.update if i.key == "lr").value_json) == 0.1


def test_where_a_resume_trained_otherwise_the_later_wins(tmp_path: Path) -> None:
    with view(tmp_path):
        write_steps(tmp_path, 1, 10)
    resume(tmp_path, 5)
    with view(tmp_path):
        write_steps(tmp_path, 6, 12, shift=0.5)
    points = logged_history(tmp_path)
    assert curve(points) == journal_curve(tmp_path)
    assert len(points) == 10 + 7


def test_chart_axis_is_the_training_step(tmp_path: Path) -> None:
    with view(tmp_path):
        write_steps(tmp_path, 1, 2)
    metrics = [r.metric for r in records(segments(tmp_path)[0]) if r.WhichOneof("record_type") == "metric"]
    assert [(metric.glob_name, metric.step_metric) for metric in metrics if metric.glob_name] == [("*", "train/step")]


def test_late_evaluations_and_promotions_are_shown(tmp_path: Path) -> None:
    with view(tmp_path), Journal(tmp_path / "metrics.jsonl") as journal:
        journal.append("step", step=10, loss=2.0)
        scores = {"heldout/bits_per_byte": {"value": 2.5, "standard_error": 0.1, "higher_is_better": False}}
        journal.append("eval", step=5, scores=scores)
        journal.append("promote", step=5, verdict="promote", generation=1)
        journal.append("notice", step=10, reason="preempted")
    points = logged_history(tmp_path)
    assert curve(points, "eval/heldout/bits_per_byte") == {5: 2.5}
    assert curve(points, "promote/generation") == {5: 1}
    assert len(points) == 3


def test_what_the_guard_finds_is_an_alert_and_stands_in_the_charts(tmp_path: Path) -> None:
    with view(tmp_path), Journal(tmp_path / "metrics.jsonl") as journal:
        journal.append("guard", verdict="replay", step=7, problem="the loss of step 7 is nan", documents={"a": ["b"]})
        journal.append("guard", verdict="hung", silent_s=9.0, problem="no step ends any more")
    alerts = [one.alert for one in records(segments(tmp_path)[0]) if one.WhichOneof("record_type") == "alert"]
    assert [(one.title, one.text, one.level) for one in alerts] == [
        ("headrace: replay at step 7", "the loss of step 7 is nan", "WARN"),
        ("headrace: hung", "no step ends any more", "WARN"),
    ]
    assert curve(logged_history(tmp_path), "guard/replay") == {7: 1}


PROGRAM = """
import sys
from pathlib import Path
from pipeline.monitor.wandb_view import WandbView
view = WandbView(Path(sys.argv[1]), project="test", mode="offline", run_name="tiny", run_id="f00", config={})
for _ in range(3):
    view.catch_up()
print("shown", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_killed_segment_leaves_no_gap(tmp_path: Path) -> None:
    """wandb loses what it had not written; the next segment sends it again, and what came twice counts once."""
    write_steps(tmp_path, 1, 30)
    program = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == b"shown\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resume(tmp_path, 20)
    with view(tmp_path):
        write_steps(tmp_path, 21, 40)
    assert curve(logged_history(tmp_path)) == journal_curve(tmp_path)
    assert sorted(journal_curve(tmp_path)) == list(range(1, 41))


def test_disabled_imports_nothing(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from pipeline.monitor.wandb_view import WandbView\n"
    program += (
        "with WandbView(Path(sys.argv[1]), project='p', mode='disabled', run_name='n', run_id='i', config={}) as v:"
    )
    program += " v.catch_up()\nassert not {'wandb', 'torch', 'rich', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    assert not (tmp_path / "wandb").exists()


def test_auto_without_a_key_is_offline_and_says_so_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with view(tmp_path, mode="auto", say=said.append) as shown:
        write_steps(tmp_path, 1, 3)
        shown.catch_up()
        assert shown.mode == "offline"
    assert len(said) == 1
    assert "wandb sync" in said[0]
    assert capfd.readouterr() == ("", "")


def test_mode_follows_key_and_environment(tmp_path: Path) -> None:
    assert resolve_mode("auto", {"HOME": str(tmp_path)}) == "offline"
    assert resolve_mode("auto", {"WANDB_API_KEY": "k"}) == "online"
    assert resolve_mode("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}) == "offline"
    assert resolve_mode("disabled", {"WANDB_API_KEY": "k", "WANDB_MODE": "online"}) == "disabled"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password k\n")
    assert has_key({"HOME": str(tmp_path)})
    assert not has_key({"HOME": str(tmp_path), "WANDB_BASE_URL": "https://wandb.example.org"})
    (tmp_path / ".netrc").write_text("not a netrc file")
    assert not has_key({"HOME": str(tmp_path)})


def test_no_network_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is there and the server is not: said once, and the curve is kept offline."""
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_run, "INIT_TIMEOUT_S", 1.0)
    said: list[str] = []
    with view(tmp_path, mode="auto", say=said.append):
        write_steps(tmp_path, 1, 5)
    assert len(said) == 1
    assert "the run goes on" in said[0]
    assert curve(logged_history(tmp_path)) == journal_curve(tmp_path)


def test_failure_of_wandb_is_said_once_and_ends_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    with view(tmp_path, say=said.append) as shown:

        def broken(*_: Any, **__: Any) -> None:
            raise RuntimeError("wandb-core is gone")

        shown._run.log = broken
        write_steps(tmp_path, 1, 3)
        shown.catch_up()
        shown.catch_up()
    assert said == ["wandb: wandb-core is gone; the run goes on, and its journal has everything"]


def test_place_of_another_journal_is_not_used(tmp_path: Path) -> None:
    with view(tmp_path):
        write_steps(tmp_path, 1, 10)
    (tmp_path / "metrics.jsonl").unlink()
    write_steps(tmp_path, 1, 4)
    assert view(tmp_path, mode="disabled").mode == "disabled"
    assert wandb_view.WandbView._read_place(view(tmp_path, mode="offline")) == wandb_view.Place()


def test_lines_without_figures_are_not_shown() -> None:
    assert shown_figures({"kind": "step", "step": 3, "loss": None}) == {}
    assert shown_figures({"kind": "start", "step": 0, "loss": 1.0}) == {}
    assert shown_figures({"kind": "eval", "step": 3, "scores": {"a": {"value": None}}}) == {}
