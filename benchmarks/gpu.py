"""How much of a GPU training uses: the presets 124m, 1b and 7b, one after the other, each as one rank of its run.

    python -m benchmarks.gpu [PRESET ...] [--steps 20] [--set model.recompute=block] [--json]
    python -m benchmarks.gpu --toy

Needs this repository, torch, deepspeed, and what configs and shards need (pydantic, pyarrow, tokenizers, xxhash); no
Ray, no wandb. `--toy` runs the same code on a CPU, at a size of nothing.

`mfu_124m`, `mfu_1b`, `mfu_7b`: tokens a second × FLOPs a token (pipeline/plan/shape.py) over the GPU's peak in dense
bf16, 989 TFLOP/s on an H100 or H200, in the full-attention convention; the causal one is printed beside it. Time is
that of whole steps as `pipeline.train.loop` takes them, between moments at which the device has nothing left to do:
batches off shards, accumulation, clipping, optimizer, journal. Compilation falls into the steps before.

What is as in the preset: model, sequence length, micro-batch, ZeRO stage, precision, and a rank's share of the global
batch, hence as many micro-batches to an optimizer step. What is not: there are no other ranks, so nothing is sent and
the optimizer's state is not sharded. Where that does not fit, as 7B's does not, the model keeps its width and as many
of its layers as `headrace plan` finds room for, and its MFU is by those; both numbers are printed. Blocks are compiled;
documents are much longer than sequences, or attention would skip blocks of scores that the FLOPs count.

Peak memory is PyTorch's count of allocated bytes in the timed steps, beside the plan's estimate of the same. Waiting
for data is the time inside the loader's call. Saving is what one checkpoint costs training, at the rate at which the
preset saves: the steps beside it against those before. It is the process's first save, which also takes the memory for
its copy. The figures before it are kept, whatever becomes of it.

Where the plan was wrong and the device has too little memory, the preset is tried again with fewer layers, and says so.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any, Protocol

import torch

from benchmarks.letters import write_letters
from benchmarks.our_step import Steps, training_steps
from benchmarks.record import parser, report
from cluster.config import ClusterConfig
from pipeline.config import RunConfig, load_config
from pipeline.doctor.machine import free_host_bytes
from pipeline.plan.estimate import largest_that
from pipeline.plan.hardware import DEVICES, USABLE_SHARE
from pipeline.plan.memory import checkpoint_bytes, memory
from pipeline.plan.shape import flops_per_token
from pipeline.train.resume import describe
from pipeline.train.saving import Saver

GOALS = {"mfu_124m": 0.45, "mfu_1b": 0.52, "mfu_7b": 0.52}
CONFIGS = Path(__file__).parents[1] / "configs"
DOCUMENT_SEQUENCES = 64
"""Sequences in a document."""
MOST_STEPS_BESIDE_A_SAVE = 200
EXIT_NO_ROOM = 9
"""Of a preset's process whose device had too little memory."""
FEWER_LAYERS = (0, 2, 4)
"""Than the plan finds room for; taken off in turn until the device has room too."""
TOY = (
    *("model.layers=2", "model.width=64", "model.heads=2", "data.tokenizer.train.vocab_size=512"),
    *("data.sequence_length=64", "train.global_batch_size=4", "train.micro_batch_size=2", "train.precision=fp32"),
    *("cluster.nodes=1", "cluster.processes_per_node=1"),
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The device that is measured."""

    name: str
    memory_bytes: int | None
    """None on a CPU, where nothing is fitted."""
    peak_flops: float
    """FLOP/s that MFU is a share of."""


def this_machine() -> Machine:
    if not torch.cuda.is_available():
        return Machine(name="cpu", memory_bytes=None, peak_flops=DEVICES["cpu"].peak_flops * torch.get_num_threads())
    properties = torch.cuda.get_device_properties(0)
    known = [device for key, device in DEVICES.items() if key in properties.name.lower()]
    if not known:
        raise SystemExit(f"{properties.name}: its peak is not known; add it to pipeline/plan/hardware.py")
    return Machine(name=properties.name, memory_bytes=properties.total_memory, peak_flops=known[0].peak_flops)


def one_rank(config: RunConfig) -> RunConfig:
    """The share of one of the run's ranks, as a run of its own."""
    train = replace(config.train, global_batch_size=config.train.global_batch_size // config.world_size)
    return replace(config, train=train, cluster=ClusterConfig())


def planned_bytes(config: RunConfig, vocab_size: int) -> int:
    """The plan's estimate of a rank's peak, alone in its world."""
    train, gpu = config.train, torch.cuda.is_available()
    return memory(
        config.model, train, config.data.sequence_length, vocab_size, 1, stage=train.zero.stage, gpu=gpu
    ).total


def with_layers_that_fit(config: RunConfig, vocab_size: int, machine: Machine, fewer: int = 0) -> RunConfig:
    """As many of the model's layers as the device has room for, or so many fewer. Raises SystemExit if that is not
    one."""
    if machine.memory_bytes is None:
        return config
    usable = int(machine.memory_bytes * USABLE_SHARE)

    def held(layers: int) -> RunConfig:
        return replace(config, model=replace(config.model, layers=layers))

    fitting = largest_that(lambda layers: planned_bytes(held(layers), vocab_size) <= usable)
    layers = min(fitting, config.model.layers) - fewer
    if layers < 1:
        raise SystemExit(f"{config.name}: not one layer fits into {usable / 1e9:.0f} GB")
    return held(layers)


def measure(
    preset: str,
    config: RunConfig,
    machine: Machine,
    warm_up: int,
    steps: int,
    fewer: int = 0,
    told: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> dict[str, Any]:
    """Trains, and gives the preset's figures. `told` hears all but the save's before that begins: it takes much memory,
    and may end the process."""
    assert config.data.tokenizer.train is not None
    vocab_size, length, all_layers = (
        config.data.tokenizer.train.vocab_size,
        config.data.sequence_length,
        config.model.layers,
    )
    config = with_layers_that_fit(one_rank(config), vocab_size, machine, fewer)
    tokens_per_step = config.train.global_batch_size * length
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_letters(
            Path(folder),
            (warm_up + steps) * tokens_per_step,
            vocab_size=vocab_size,
            sequence_length=length,
            document_tokens=DOCUMENT_SEQUENCES * length,
        )
        with training_steps(config, Path(folder), manifest) as run:
            warm_up_s = sum(timed_steps(run, warm_up)[0])
            waited_before_s = run.loader.waited_s
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            step_s, loss = timed_steps(run, steps)
            peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
            waited_s = run.loader.waited_s - waited_before_s
            tokens_per_s = steps * tokens_per_step / sum(step_s)
            flops = flops_per_token(config.model, vocab_size, length)
            figures = {
                "preset": preset,
                "layers": config.model.layers,
                "layers_of_preset": all_layers,
                "micro_batch_size": config.train.micro_batch_size,
                "tokens_per_step": tokens_per_step,
                "steps": steps,
                "warm_up_s": warm_up_s,
                "step_s": statistics.median(step_s),
                "slowest_step_s": max(step_s),
                "tokens_per_s": tokens_per_s,
                "mfu_full": flops.full * tokens_per_s / machine.peak_flops,
                "mfu_causal": flops.causal * tokens_per_s / machine.peak_flops,
                "peak_bytes": peak,
                "plan_bytes": planned_bytes(config, vocab_size),
                "loss": loss,
                "waiting_share": waited_s / sum(step_s),
                "save": None,
            }
            told(figures)
            return figures | {"save": save_beside(run, sum(step_s) / steps)}


def timed_steps(run: Steps, steps: int) -> tuple[list[float], float]:
    """Seconds of each step, from one moment at which the device has nothing left to do to the next; and the last
    step's loss."""
    seconds, loss = [], math.nan
    for _ in range(steps):
        began = synchronised()
        loss = run.step().loss
        seconds.append(synchronised() - began)
    return seconds, loss


def synchronised() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def save_beside(run: Steps, step_s: float) -> dict[str, float] | None:
    """Saves a checkpoint while training goes on: what that costs beyond the steps that are taken meanwhile, and the
    share of all time that it is at the rate at which the config saves. None if disk or host memory have no room."""
    training, config = run.training, run.training.config
    folder = training.corpus / "checkpoints"
    size_bytes = checkpoint_bytes(config.model, training.manifest.vocab_size, config.train)
    # torch rounds each pinned tensor up to a power of two: the copy takes up to twice its size.
    if size_bytes > min(0.8 * disk_usage(training.corpus).free, 0.4 * free_host_bytes()):
        return None
    told: list[dict[str, Any]] = []
    with Saver(
        run.engine, folder, training.world, lambda _, **figures: told.append(figures), asynchronous=True
    ) as saver:
        began, first = synchronised(), run.steps
        saver.save(describe(training, run.order, run.steps))
        while not told and run.steps < first + MOST_STEPS_BESIDE_A_SAVE:
            run.step()
            if saver.is_over():
                saver.wait()
        cost_s = max(0.0, synchronised() - began - (run.steps - first) * step_s)
    between_s = config.train.checkpoint.every_steps * step_s
    return {
        "size_bytes": size_bytes,
        "save_s": told[0]["save_s"],
        "stall_s": told[0]["stall_s"],
        "steps_beside": run.steps - first,
        "cost_s": cost_s,
        "share": cost_s / (between_s + cost_s),
    }


def told_of(figures: dict[str, Any]) -> str:
    """A preset's figures for people, but for the save's."""
    held, whole = figures["layers"], figures["layers_of_preset"]
    peak, plan = figures["peak_bytes"], figures["plan_bytes"]
    lines = [
        f"{figures['preset']}: "
        + (f"all {whole} layers" if held == whole else f"{held} of {whole} layers, as many as fit with their optimizer")
        + f"; {figures['tokens_per_step']:,} tokens a step in micro-batches of {figures['micro_batch_size']}",
        f"  tokens/s      {figures['tokens_per_s']:,.0f}   ({figures['step_s']:.3f} s a step, the slowest of "
        f"{figures['steps']} {figures['slowest_step_s']:.3f} s; {figures['warm_up_s']:.0f} s of steps to warm up)",
        f"  MFU           {figures['mfu_full']:.1%} full attention, {figures['mfu_causal']:.1%} causal",
        f"  memory        {plan / 1e9:.2f} GB planned, "
        + ("not counted on a CPU" if peak is None else f"{peak / 1e9:.2f} GB at the peak ({peak / plan - 1:+.1%})"),
        f"  waiting       {figures['waiting_share']:.2%} of the time for data",
    ]
    return "\n".join(lines)


def told_of_save(save: dict[str, float] | None) -> str:
    if save is None:
        return "  saving        not measured: memory or disk has no room for a checkpoint"
    return (
        f"  saving        {save['share']:.2%} of the time: {save['cost_s']:.2f} s for {save['size_bytes'] / 1e9:.2f} "
        f"GB, written in {save['save_s']:.1f} s beside {save['steps_beside']} steps"
    )


class Run(Protocol):
    """`subprocess.run`, or what stands in for it."""

    def __call__(self, command: list[str], **how: Any) -> "subprocess.CompletedProcess[str]": ...


def in_own_process(preset: str, chosen: argparse.Namespace, run: Run = subprocess.run) -> dict[str, Any] | None:
    """The record of a preset alone, measured where no other has left anything on the device. None if that failed; its
    process has said why."""
    command = [sys.executable, "-m", "benchmarks.gpu", preset, "--json"]
    command += ["--steps", str(chosen.steps), "--warm-up", str(chosen.warm_up)]
    command += [part for override in chosen.set for part in ("--set", override)]
    for fewer in FEWER_LAYERS:
        done = run([*command, "--fewer-layers", str(fewer)], stdout=subprocess.PIPE, text=True, check=False)
        said, record = split_record(done.stdout)
        print(*said, sep="\n", flush=True)
        if done.returncode:
            as_planned = f" with {fewer} layers fewer than planned" if fewer else ""
            measured = "its save was not measured" if record else f"not measured{as_planned}"
            print(f"{preset}: {measured}, its process ended with {done.returncode}", flush=True)
        if record is not None or done.returncode != EXIT_NO_ROOM:
            return record
    return None


def split_record(stdout: str) -> tuple[list[str], dict[str, Any] | None]:
    """What a preset's process has said to people, and the last record that it had come to."""
    said: list[str] = []
    record: dict[str, Any] | None = None
    for line in stdout.splitlines():
        if line.startswith('{"benchmark"'):
            record = json.loads(line)
        else:
            said.append(line)
    return said, record


def main() -> None:
    options = parser(__doc__)
    options.add_argument("presets", nargs="*", default=["124m", "1b", "7b"], help="names of files in configs/")
    options.add_argument("--steps", type=int, default=20, help="timed")
    options.add_argument("--warm-up", type=int, default=5, help="steps before them; compilation falls into these")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides, as of headrace")
    options.add_argument("--fewer-layers", type=int, default=0, metavar="N", help="than the plan finds room for")
    options.add_argument("--toy", action="store_true", help="a model of nothing, on a CPU too")
    chosen = options.parse_args()
    if not chosen.toy and not torch.cuda.is_available():
        raise SystemExit("there is no GPU; --toy runs on a CPU")
    if chosen.toy or len(chosen.presets) == 1:
        name = "toy" if chosen.toy else chosen.presets[0]
        base, overrides = ("10m", TOY) if chosen.toy else (name, ())
        config, machine = load_config(CONFIGS / f"{base}.yaml", (*overrides, *chosen.set)), this_machine()
        ran_on = {"device": machine.name, "peak_flops": machine.peak_flops, "torch": torch.__version__}

        def record(figures: dict[str, Any]) -> None:
            mfu = {f"mfu_{name}": figures["mfu_full"]}
            report("gpu", mfu, GOALS, as_json=chosen.json, **ran_on, presets=[figures])
            sys.stdout.flush()

        def before_the_save(figures: dict[str, Any]) -> None:
            print(told_of(figures))
            record(figures)

        try:
            figures = measure(name, config, machine, chosen.warm_up, chosen.steps, chosen.fewer_layers, before_the_save)
            print(told_of_save(figures["save"]))
            record(figures)
        except torch.OutOfMemoryError as error:
            print(f"{name}: {str(error).splitlines()[0]}; --fewer-layers leaves room", file=sys.stderr)
            sys.exit(EXIT_NO_ROOM)
        return
    # This process leaves the device alone.
    records = [record for preset in chosen.presets if (record := in_own_process(preset, chosen)) is not None]
    measured = [record["presets"][0] for record in records]
    ran_on = {key: record[key] for record in records for key in ("device", "peak_flops", "torch")}
    ratios = {f"mfu_{figures['preset']}": figures["mfu_full"] for figures in measured}
    report("gpu", ratios, GOALS, as_json=chosen.json, **ran_on, presets=measured)
    if len(measured) < len(chosen.presets):
        sys.exit(1)


if __name__ == "__main__":
    main()
