"""The plan for people: what, how much memory at each ZeRO stage, how long. A pure function of a `Plan`."""

import io
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.plan.estimate import Plan, StagePlan

WIDTH = 80
PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")


def render(plan: Plan, width: int = WIDTH, *, colour: bool = False) -> str:
    """Text for a terminal, or with `colour=False` for a file."""
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system="standard" if colour else None,
        force_terminal=colour,
        highlight=False,
        emoji=False,
    )
    console.print(Group(*_sections(plan)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def _sections(plan: Plan) -> list[RenderableType]:
    title = Text.assemble(("headrace", "bold"), "  plan of ", (plan.run, "bold"), f"  on {_devices(plan)}")
    return [
        title,
        *([Text(), Text(plan.hardware.assumed, style="yellow")] if plan.hardware.assumed else []),
        *_section("model", _facts(_model_rows(plan))),
        *_section("training", _facts(_training_rows(plan))),
        *(_section("over the run", _changes_table(plan)) if len(plan.stretches) > 1 else []),
        *_section("memory of a rank", _memory_table(plan), *_verdict(plan)),
        *_section("time and storage", _facts(_time_rows(plan))),
    ]


def _devices(plan: Plan) -> str:
    hardware = plan.hardware
    what = hardware.device.name.upper() if hardware.device.kind == "gpu" else "CPU core"
    return f"{hardware.count:,} × {what}"


def _section(title: str, *content: RenderableType) -> list[RenderableType]:
    return [Text(), Text(title, style="bold green"), *(Padding(part, (0, 0, 0, 2)) for part in content)]


def _facts(rows: Sequence[tuple[str, str, str]]) -> Table:
    """Name, value, and what it is made of."""
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim", min_width=14, no_wrap=True)
    table.add_column(justify="right", min_width=9, no_wrap=True, style="bold")
    table.add_column()
    for row in rows:
        table.add_row(*row)
    return table


def _model_rows(plan: Plan) -> list[tuple[str, str, str]]:
    parameters, flops = plan.parameters, plan.flops_per_token
    ends = f"embedding {_count(parameters.embedding)}, " + (
        f"output {_count(parameters.output)}" if parameters.output else "tied to the output"
    )
    return [
        ("parameters", _count(parameters.total), f"blocks {_count(parameters.non_embedding)}, {ends}"),
        ("vocabulary", f"{plan.vocabulary.size:,}", f"from {plan.vocabulary.source}"),
        (
            "FLOPs a token",
            _count(flops.full, "FLOP"),
            f"6N + 12LHT; causal, 6N + 6LHT: {_count(flops.causal, 'FLOP')}",
        ),
    ]


def _training_rows(plan: Plan) -> list[tuple[str, str, str]]:
    ranks, micro, times = plan.data_ranks, plan.micro_batch_size, plan.accumulation
    what = "ranks" if plan.sequence_parallel == 1 else f"groups of {plan.sequence_parallel} ranks"
    return [
        ("tokens", _count(plan.total_tokens), f"{plan.total_tokens / plan.parameters.total:.1f} a parameter"),
        (
            "steps",
            f"{plan.total_steps:,}",
            f"of {_count(plan.tokens_per_step)} tokens, in sequences of {plan.sequence_length:,}",
        ),
        (
            "global batch",
            f"{ranks * micro * times:,}",
            f"{ranks:,} {what} × micro-batch {micro} × accumulation {times}",
        ),
    ]


def _changes_table(plan: Plan) -> Table:
    """A line for each change, with what changes over the run and nothing else."""
    table = Table(box=None, pad_edge=False, padding=(0, 4, 0, 0), header_style="dim")
    for name in ("from step", "after tokens", "global batch"):
        table.add_column(name, justify="right", no_wrap=True)
    several = len({tuple(one.shares.items()) for one in plan.stretches}) > 1
    if several:
        table.add_column("mix")
    for one in plan.stretches:
        mix = ", ".join(f"{name} {share:.1%}" for name, share in one.shares.items() if share)
        figures = [
            f"{one.first_step:,}",
            _count(one.first_token) if one.first_token else "0",
            f"{one.global_batch_size:,}",
        ]
        table.add_row(*figures, *([mix] if several else []))
    return table


def _memory_table(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 4, 0, 0), header_style="dim")
    table.add_column(f"{plan.precision}, at ZeRO stage", style="dim", min_width=20)
    for stage in plan.stages:
        chosen = stage.stage == plan.chosen_stage
        table.add_column(
            f"{'▸ ' if chosen else ''}{stage.stage}", justify="right", min_width=9, style="bold" if chosen else ""
        )
    for part in PARTS:
        table.add_row(part, *(_bytes(getattr(stage.memory, part)) for stage in plan.stages))
    table.add_row(Text("in all", style="bold"), *(_total(stage) for stage in plan.stages))
    if plan.usable_bytes is not None:
        table.add_row("largest micro-batch", *(_largest(stage) for stage in plan.stages))
    if any(stage.memory.host for stage in plan.stages):
        table.add_row("in host memory", *(_bytes(stage.memory.host) for stage in plan.stages))
    return table


def _total(stage: StagePlan) -> Text:
    style = {True: "bold green", False: "bold red", None: "bold"}[stage.fits]
    return Text(_bytes(stage.memory.total), style=style)


def _largest(stage: StagePlan) -> str:
    return f"{stage.largest_micro_batch:,}" if stage.largest_micro_batch else "none"


def _verdict(plan: Plan) -> list[RenderableType]:
    usable, device = plan.usable_bytes, plan.hardware.device
    if usable is None or device.memory_bytes is None:
        return []
    share = f"{plan.chosen.memory.total / usable:.0%}"
    room = f"of the {_bytes(usable)} that tensors may use of its {_bytes(device.memory_bytes)}"
    if plan.chosen.fits:
        return [Text(), Text(f"✓ Fits: {share} {room}.", style="green")]
    return [Text(), Text(f"✗ Does not fit: {share} {room}.", style="red"), Text(f"  {_way_out(plan)}")]


def _way_out(plan: Plan) -> str:
    """The smallest change that makes it fit: another micro-batch that divides, else another stage."""
    ranks = plan.data_ranks
    batches = [ranks * plan.micro_batch_size * plan.accumulation, *(stage.size for stage in plan.batch_stages)]
    sizes = [size for size in range(1, plan.micro_batch_size) if all(batch % (ranks * size) == 0 for batch in batches)]
    fitting = [size for size in sizes if size <= (plan.chosen.largest_micro_batch or 0)]
    if fitting:
        return f"train.micro_batch_size={fitting[-1]} fits."
    stages = [stage.stage for stage in plan.stages if stage.fits]
    if stages:
        return f"train.zero.stage={stages[0]} fits."
    return "Nor does another stage: take larger GPUs, or more; train.sequence_parallel divides activations and logits."


def _time_rows(plan: Plan) -> list[tuple[str, str, str]]:
    hardware = plan.hardware
    unit = "GPU" if hardware.device.kind == "gpu" else "core"
    peak = _count(hardware.device.peak_flops, "FLOP/s")
    speed = f"{_count(plan.tokens_per_s)} tokens/s, at {hardware.mfu:.0%} MFU of {peak}"
    rows = [("training", _duration(plan.hours), speed)]
    rows.append((f"{unit}-hours", f"{plan.hours * hardware.count:,.1f}", "without preparation, saves and evaluations"))
    if plan.cost is not None:
        rows.append(("cost", f"{plan.cost:,.2f}", f"at {hardware.price_per_gpu_hour:,.2f} a {unit}-hour"))
    kept = min(plan.checkpoints_kept, plan.checkpoints_saved)
    rows.append(
        (
            "a checkpoint",
            _bytes(plan.checkpoint_bytes),
            f"{plan.checkpoints_saved:,} are saved; the last {kept} take {_bytes(kept * plan.checkpoint_bytes)}",
        )
    )
    return rows


def _count(value: float, unit: str = "") -> str:
    """Three figures and a unit: 6.74B, and 989 TFLOP/s."""
    steps = ((1e15, "P"), (1e12, "T"), (1e9, "G" if unit else "B"), (1e6, "M"), (1e3, "k"))
    for size, letter in steps:
        if value >= size:
            return f"{_three(value / size)}{' ' if unit else ''}{letter}{unit}"
    return f"{_three(value)}{unit}"


def _bytes(value: float) -> str:
    """Decimal units, as GPUs and disks are sold."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{_three(value / size)} {unit}"
    return f"{value:.0f} B"


def _three(value: float) -> str:
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{_three(hours / 24)} days"
    if hours >= 1:
        return f"{_three(hours)} h"
    return f"{_three(hours * 60)} min" if hours * 60 >= 1 else f"{_three(hours * 3600)} s"
