import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.monitor.journal import Journal, read_from, read_journal, to_disk, unbroken
from tests.disk import record_disk


def test_lines_read_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "runs/a/metrics.jsonl"
    with Journal(path) as journal:
        journal.append("start", run="a", config={"lr": 1e-3})
        journal.append("step", step=1, loss=2.5)
    start, step = read_journal(path)
    assert (start["kind"], start["run"], start["config"]) == ("start", "a", {"lr": 1e-3})
    assert step["loss"] == 2.5
    assert step["time"] >= start["time"] > 1e9


def test_absent_journal_is_empty(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "metrics.jsonl") == []


def test_unknown_kind_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "m.jsonl") as journal, pytest.raises(ValueError, match="kinds are start"):
        journal.append("stepp", step=1)


def test_nonfinite_figures_become_null_and_are_named(tmp_path: Path) -> None:
    with Journal(tmp_path / "m.jsonl") as journal:
        journal.append("step", step=1, loss=float("nan"), norms={"a": [1.0, float("inf")]})
    text = (tmp_path / "m.jsonl").read_text()
    line = json.loads(text, parse_constant=pytest.fail)
    assert (line["loss"], line["norms"], line["nonfinite"]) == (None, {"a": [1.0, None]}, ["loss", "norms.a.1"])


@pytest.mark.parametrize("torn", [b'{"kind": "st', b'{"kind": "step", "step": 9', b"\xff\xfe", b"\0\0\0\0"])
def test_torn_line_costs_itself_and_nothing_else(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "m.jsonl"
    for step in (1, 2):
        with Journal(path) as journal:
            journal.append("step", step=step)
        with path.open("ab") as file:
            file.write(torn)
        assert [line["step"] for line in read_journal(path)] == list(range(1, step + 1))


def test_reading_on_from_an_offset_gives_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    seen, offset = [], 0
    with Journal(path) as journal:
        for step in range(5):
            journal.append("step", step=step)
            lines, offset = read_from(path, offset)
            seen += [line["step"] for line in lines]
            with path.open("ab") as file:
                file.write(b'{"half')
            assert read_from(path, offset) == ([], offset)
    assert seen == list(range(5))


def write_many(path: Path, writer: int) -> None:
    with Journal(path) as journal:
        for step in range(500):
            journal.append("step", step=step, writer=writer, padding="x" * 500)


@pytest.mark.slow
def test_processes_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=write_many, args=(path, writer)) for writer in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    lines = read_journal(path)
    assert len(lines) == len([text for text in path.read_bytes().split(b"\n") if text]) == 1500
    for writer in range(3):
        assert [line["step"] for line in lines if line["writer"] == writer] == list(range(500))


def test_full_disk_is_an_error_and_the_journal_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.jsonl"
    write = os.write
    with Journal(path) as journal:
        journal.append("step", step=1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
            with pytest.raises(OSError, match="is the disk full"):
                journal.append("step", step=2)
        journal.append("step", step=3)
    assert [line["step"] for line in read_journal(path)] == [1, 3]


def test_a_power_cut_costs_step_lines_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = record_disk(monkeypatch)
    with Journal(tmp_path / "run/metrics.jsonl") as journal:
        assert done == [("sync", "run")], "the file's name"
        for kind in ("start", "step", "guard"):
            journal.append(kind, step=1)
        lines = [what for what, name in done if name == "metrics.jsonl"]
        assert lines == ["write", "sync", "write", "write", "sync"]
        to_disk(journal.path)
        assert done[-1] == ("sync", "metrics.jsonl")
    with Journal(tmp_path / "run/metrics.jsonl"):
        assert done.count(("sync", "run")) == 1
    to_disk(tmp_path / "none")


def step(number: int, loss: float = 0.0) -> dict[str, Any]:
    return {"kind": "step", "step": number, "loss": loss}


def test_later_lines_win() -> None:
    lines = [step(1), step(2), step(3), {"kind": "resume", "step": 1}, step(2, loss=1.0)]
    assert unbroken(lines) == [step(1), step(2, loss=1.0)]


def test_resume_alone_rewinds() -> None:
    assert unbroken([step(1), step(2), {"kind": "checkpoint", "step": 1}, {"kind": "resume", "step": 1}]) == [step(1)]


@given(st.lists(st.tuples(st.sampled_from(["step", "resume", "eval"]), st.integers(0, 12))))
def test_unbroken_agrees_with_a_dict_of_steps(events: list[tuple[str, int]]) -> None:
    """The model: a dict by step; a step or a resume forgets all that is above it."""
    lines: list[dict[str, Any]] = [{"kind": kind, "step": number, "n": n} for n, (kind, number) in enumerate(events)]
    model: dict[int, dict[str, Any]] = {}
    for line in lines:
        if line["kind"] != "eval":
            model = {number: kept for number, kept in model.items() if number <= line["step"]}
        if line["kind"] == "step":
            model[line["step"]] = line
    assert unbroken(lines) == [model[number] for number in sorted(model)]


@given(st.lists(st.integers(1, 5), max_size=8))
def test_a_run_killed_anywhere_is_one_curve(segments: list[int]) -> None:
    """Each segment trains some steps, and the next resumes from the last checkpoint, two steps apart."""
    lines, at = [], 0
    for length in segments:
        lines += [{"kind": "resume", "step": at}] + [step(number) for number in range(at + 1, at + length + 1)]
        at = (at + length) // 2 * 2
    lines.append({"kind": "resume", "step": at})
    assert [line["step"] for line in unbroken(lines)] == list(range(1, at + 1))
