"""The benchmarks of training run, at a size of nothing, and compare what they say they compare. No time is asserted."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from benchmarks import gpu, train
from pipeline.config import RunConfig, load_config
from pipeline.train.guard import Figures

WITHOUT_RAY_AND_WANDB = """
import runpy, sys
sys.modules |= {"ray": None, "wandb": None}
sys.argv = ["gpu", "--toy", "--steps", "2", "--warm-up", "1", "--json"]
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""


def record_of(*command: str) -> dict[str, Any]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


@pytest.mark.slow
def test_a_step_of_ours_and_of_a_bare_loop_train_the_same() -> None:
    sizes = ("--width", "64", "--layers", "1", "--micro-batch-size", "2", "--rounds", "3", "--threads", "1")
    record = record_of("-m", "benchmarks.train", *sizes, "--without-transformers", "--json")
    assert record["benchmark"] == "train"
    assert set(record["ratios"]) == {"step_over_bare_torch"}
    assert record["tokens_per_step"] == 2 * 2 * 256


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="the Trainer needs accelerate")
def test_the_trainer_takes_its_turns() -> None:
    sizes = ("--width", "64", "--layers", "1", "--micro-batch-size", "2", "--rounds", "1", "--threads", "1")
    record = record_of("-m", "benchmarks.train", *sizes, "--json")
    assert set(record["ratios"]) == {"step_over_bare_torch", "step_vs_transformers"}


@pytest.mark.slow
def test_a_saves_stall_is_measured() -> None:
    record = record_of("-m", "benchmarks.checkpoint", "--json", "--width", "64", "--layers", "1")
    assert set(record["ratios"]) == {"stall_vs_sync"}


def test_sides_that_trained_otherwise_are_not_compared() -> None:
    ours = [Figures(loss=9.0, grad_norm=2.0), Figures(loss=8.5, grad_norm=1.0)]
    train.same_training(ours, [ours[0], Figures(loss=8.5001, grad_norm=1.0001)])
    with pytest.raises(SystemExit, match=r"loss of step 2 is 8.5 in ours and 8.6 in"):
        train.same_training(ours, [ours[0], replace(ours[1], loss=8.6)])
    with pytest.raises(SystemExit, match=r"grad_norm of step 1 is 2.0 in ours and 1.0 in"):
        train.same_training(ours, [replace(ours[0], grad_norm=1.0), ours[1]])


@pytest.mark.slow
def test_the_gpus_benchmark_runs_without_ray_and_wandb() -> None:
    record = record_of("-c", WITHOUT_RAY_AND_WANDB)
    assert set(record["ratios"]) == {"mfu_toy"}
    [toy] = record["presets"]
    assert toy["steps"] == 2
    assert toy["layers"] == toy["layers_of_preset"]
    assert toy["save"]["steps_beside"] >= 1
    assert 0 < toy["mfu_causal"] < toy["mfu_full"]
    assert toy["loss"] < 7


def ended(code: int, *lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, "".join(f"{line}\n" for line in lines))


def the_7b(*ends: subprocess.CompletedProcess[str]) -> tuple[dict[str, Any] | None, list[str]]:
    """The record that comes of processes that end so, one after the other, and how many layers each left out."""
    left, asked = list(ends), []

    def run(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[command.index("--fewer-layers") + 1])
        return left.pop(0)

    return gpu.in_own_process("7b", argparse.Namespace(steps=1, warm_up=1, set=[]), run), asked


RECORD = '{"benchmark": "gpu", "presets": [{"save": %s}]}'


def test_what_was_measured_before_a_save_that_failed_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    record, asked = the_7b(ended(-9, "tokens/s 9", RECORD % "null"))
    assert record is not None
    assert record["presets"] == [{"save": None}]
    assert asked == ["0"]
    assert "7b: its save was not measured, its process ended with -9" in capsys.readouterr().out
    record, _ = the_7b(ended(0, "tokens/s 9", RECORD % "null", "saving 1%", RECORD % '"a figure"'))
    assert record is not None
    assert record["presets"] == [{"save": "a figure"}]


def test_too_little_memory_is_tried_again_with_fewer_layers_and_nothing_else_is() -> None:
    assert the_7b(ended(gpu.EXIT_NO_ROOM), ended(0, RECORD % "null"))[1] == ["0", "2"]
    assert the_7b(*[ended(gpu.EXIT_NO_ROOM)] * 3) == (None, ["0", "2", "4"])
    assert the_7b(ended(1, "no such preset")) == (None, ["0"])


def preset(name: str) -> RunConfig:
    return gpu.one_rank(load_config(gpu.CONFIGS / f"{name}.yaml"))


@pytest.mark.parametrize(("name", "sequences", "micro_batches"), [("124m", 64, 2), ("1b", 32, 4), ("7b", 16, 8)])
def test_a_preset_is_measured_with_the_share_of_one_of_its_ranks(name: str, sequences: int, micro_batches: int) -> None:
    train = preset(name).train
    assert train.global_batch_size == sequences
    assert train.global_batch_size == micro_batches * train.micro_batch_size


def test_as_many_layers_as_the_plan_finds_room_for() -> None:
    config, vocab_size = preset("7b"), 32_000
    machine = gpu.Machine(name="h100", memory_bytes=80_000_000_000, peak_flops=989e12)
    held = gpu.with_layers_that_fit(config, vocab_size, machine)
    one_more = replace(held, model=replace(held.model, layers=held.model.layers + 1))
    usable = gpu.USABLE_SHARE * 80_000_000_000
    assert 1 < held.model.layers < config.model.layers
    assert gpu.planned_bytes(held, vocab_size) <= usable < gpu.planned_bytes(one_more, vocab_size)
    assert replace(held, model=config.model) == config

    fewer = gpu.with_layers_that_fit(config, vocab_size, machine, fewer=2)
    assert fewer.model.layers == held.model.layers - 2

    large = replace(machine, memory_bytes=10**13)
    assert gpu.with_layers_that_fit(config, vocab_size, large) == config
    with pytest.raises(SystemExit, match="7b: not one layer fits into 1 GB"):
        gpu.with_layers_that_fit(config, vocab_size, replace(machine, memory_bytes=10**9))
