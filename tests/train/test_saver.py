"""A saver writes what the state was when it was asked, beside training, and says so or says why not."""

import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from pipeline.errors import Mistake, PipelineError
from pipeline.train import saving, snapshot
from pipeline.train.checkpoint import steps_saved, verify_checkpoint
from pipeline.train.saving import Saver
from tests.train.small_runs import ALONE, RECORD


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def engine() -> Any:
    """Stands in for DeepSpeed's at stage 0, where it adds nothing to module and optimizer."""
    module = torch.nn.Linear(3, 2, bias=False)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    return SimpleNamespace(
        module=module, optimizer=optimizer, basic_optimizer=optimizer, zero_optimization_stage=lambda: 0
    )


def take_step(engine: Any) -> None:
    engine.module.weight.grad = torch.ones_like(engine.module.weight)
    engine.optimizer.step()


class Told(list[dict[str, Any]]):
    def __call__(self, kind: str, **figures: Any) -> None:
        self.append({"kind": kind, **figures})


class Watched(threading.Event):
    """Knows that somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.reached.set()
        return super().wait(timeout)


def late_copy(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """From here on a copy begins only when training waits for its end, or says that it has passed that place."""
    copied, copy = Watched(), snapshot.snapshot

    def late(*arguments: Any) -> None:
        assert copied.reached.wait(60)
        copy(*arguments)

    monkeypatch.setattr(snapshot, "snapshot", late)
    return copied


def test_the_optimizer_waits_for_the_copy(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy begins only when training is inside the next step: it has passed the hook if that did not wait."""
    told, copied = Told(), late_copy(monkeypatch)
    take_step(engine)
    before = engine.module.weight.detach().clone()
    with Saver(engine, tmp_path, ALONE, told, asynchronous=True) as saver:
        saver._copied = copied
        saver.save(RECORD)
        assert told == []
        take_step(engine)
        copied.reached.set()
    assert not torch.equal(engine.module.weight, before)
    path = tmp_path / "step-00000000"
    verify_checkpoint(path)
    assert torch.equal(load_file(path / "model.safetensors")["weight"], before)
    assert torch.equal(load_file(path / "state-00000.safetensors")["master/0/weight"], before.view(-1))
    (line,) = told
    assert (line["kind"], line["step"], line["digest"]) == ("checkpoint", 0, verify_checkpoint(path).digest)
    assert 0 < line["stall_s"] <= line["save_s"]


def test_with_muon_the_backward_pass_waits_for_the_copy(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy begins only when the forward pass waits for it."""
    copied = late_copy(monkeypatch)
    engine.basic_optimizer.param_groups[0]["use_muon"] = True
    with Saver(engine, tmp_path, ALONE, Told(), asynchronous=True) as saver:
        saver._copied = copied
        saver.save(RECORD)
        assert not saver._copied.is_set()
        engine.module(torch.ones(3))
        is_whole = saver._copied.is_set()
        copied.reached.set()
    assert is_whole
    assert not engine.module._forward_hooks


def test_a_save_is_timed_to_its_commit_not_to_when_training_hears_of_it(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a save that training had to wait for says so, not the one that came after it."""
    now, told, write, wait = [0.0], Told(), snapshot.write_tensors, futures.wait
    go_on = threading.Event()
    go_on.set()

    def slow(path: Path, tensors: Any) -> Any:
        assert go_on.wait(60)
        now[0] += 5
        return write(path, tensors)

    def waited_for(saves: Any) -> None:
        go_on.set()
        wait(saves)

    monkeypatch.setattr(futures, "wait", waited_for)
    monkeypatch.setattr(saving, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(snapshot, "write_tensors", slow)
    with Saver(engine, tmp_path, ALONE, told, asynchronous=True) as saver:
        saver.save(replace(RECORD, step=0))
        assert saver._saving is not None
        saver._saving.saved.result()
        now[0] += 1000
        go_on.clear()
        saver.save(replace(RECORD, step=1))
        saver.save(replace(RECORD, step=2))
    assert [(line["step"], line["save_s"]) for line in told] == [(0, 15), (1, 15), (2, 15)], "three files each"
    assert told[1]["stall_s"] == 15


def test_what_cannot_be_written_is_told_at_the_next_step(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, tensors: object) -> None:
        raise OSError(28, "No space left on device")

    saver = Saver(engine, tmp_path, ALONE, Told(), asynchronous=True)
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "write_tensors", full)
        saver.save(RECORD)
        saver._thread.shutdown()  # waits until it has failed
    assert saver.is_over()
    with pytest.raises(PipelineError, match="the checkpoint of step 0 could not be written"):
        saver.wait()
    assert not saver.is_over()
    saver.wait()
    assert steps_saved(tmp_path) == []
    again = Told()
    with Saver(engine, tmp_path, ALONE, again, asynchronous=False) as saver:
        saver.save(RECORD)
        assert steps_saved(tmp_path) == [0]
    assert again[0]["stall_s"] == again[0]["save_s"]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000000"], "the torn save is swept away"


def test_what_the_state_no_longer_has_is_not_written_again(engine: Any, tmp_path: Path) -> None:
    """As after going back to step 0, where there are no moments yet."""
    with Saver(engine, tmp_path, ALONE, Told(), asynchronous=False) as saver:
        take_step(engine)
        saver.save(RECORD)
        engine.optimizer.state.clear()
        (tmp_path / "step-00000000").rename(tmp_path / "with")
        saver.save(RECORD)
    keys = {kind: set(load_file(tmp_path / kind / "state-00000.safetensors")) for kind in ("with", "step-00000000")}
    assert keys["with"] == {"master/0/weight", "exp_avg/0/weight", "exp_avg_sq/0/weight", "step"}
    assert keys["step-00000000"] == {"master/0/weight"}


def test_a_save_that_fails_behind_an_error_is_a_note_to_it(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, tensors: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot, "write_tensors", full)
    saver = Saver(engine, tmp_path, ALONE, Told(), asynchronous=True)

    def train() -> None:
        with saver:
            saver.save(RECORD)
            raise Mistake("what ended training")

    with pytest.raises(Mistake, match="what ended training") as caught:
        train()
    [note] = caught.value.__notes__
    assert "the checkpoint of step 0 could not be written" in note
    with pytest.raises(RuntimeError, match="shutdown"):
        saver._thread.submit(print)
    assert not engine.optimizer._optimizer_step_pre_hooks
