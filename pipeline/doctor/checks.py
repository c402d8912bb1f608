"""The verdicts of `headrace doctor`: pure functions from what the ranks measured to a line of the report.

Each says what was measured, the bound that it is held against and, where it is broken, which ranks and what to do. A
list over the ranks is in the order of the ranks.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.config import TrainConfig

Result = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, kw_only=True)
class Check:
    name: str
    result: Result
    figure: str
    """What was measured, for people."""
    bound: str = ""
    """What it is held against."""
    advice: str = ""
    """What to do about it; nothing if it is in order."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The figures, for programs."""


FAILS_AT = 4.0
"""Times a bound of speed that is a fault, and no longer a slow machine: a fast network that is not used is slower by
more (TCP in place of InfiniBand, some 10 times)."""


def grade(took_s: float, bound_s: float | None) -> Result:
    """A matter of speed alone: slower than planned is to be looked at, `FAILS_AT` times slower is wrong."""
    if bound_s is None or took_s <= bound_s:
        return "ok"
    return "warn" if took_s <= FAILS_AT * bound_s else "fail"


def skipped(name: str, why: str) -> Check:
    return Check(name=name, result="skip", figure=why)


def standing(places: Sequence[str | None]) -> str:
    """Where each rank stands, the odd ones first. places: innermost call of each; None for a rank that says nothing."""
    groups = sorted(_groups([place or "" for place in places]), key=len)
    return ", ".join(f"{_ranks(group)} {'in ' + place if (place := places[group[0]]) else 'gone'}" for group in groups)


def broken(name: str, problems: Mapping[int, str]) -> Check:
    """A check that could not be carried out, by rank and what it said there."""
    first = min(problems)
    return Check(
        name=name,
        result="fail",
        figure=f"{_ranks(problems)}: {problems[first]}",
        bound="no error",
        advice="the log has the traceback",
        values={"problems": {str(rank): problem for rank, problem in problems.items()}},
    )


# --- the machine ------------------------------------------------------------------------------------------------------


def check_ranks(found: int, asked: int, hosts: Sequence[str]) -> Check:
    """Whether as many ranks met as the config asks for."""
    nodes = len(set(hosts))
    return Check(
        name="ranks",
        result="ok" if found == asked else "warn",
        figure=f"{_count(found, 'rank')} on {_count(nodes, 'node')}",
        bound=f"the config's {asked}",
        advice="" if found == asked else "start as many as cluster.nodes × cluster.processes_per_node, or change those",
        values={"ranks": found, "asked": asked, "nodes": nodes},
    )


def check_versions(versions: Sequence[Mapping[str, str]]) -> Check:
    """Whether all ranks run the same software: a mix computes, and saves, something else on some of them."""
    mixed = {}
    for package in sorted({package for one in versions for package in one}):
        counts = Counter(one.get(package, "none") for one in versions)
        if len(counts) > 1:
            usual = counts.most_common(1)[0][0]
            odd = {rank: one.get(package, "none") for rank, one in enumerate(versions) if one.get(package) != usual}
            mixed[package] = f"{package} {', '.join(sorted(set(odd.values())))} on {_ranks(odd)}, elsewhere {usual}"
    return Check(
        name="versions",
        result="fail" if mixed else "ok",
        figure="; ".join(mixed.values()) or ", ".join(f"{key} {value}" for key, value in versions[0].items()),
        bound="the same on all ranks",
        advice="install the same environment on all nodes" if mixed else "",
        values={"versions": dict(versions[0]), "mixed": sorted(mixed)},
    )


def check_devices(devices: Sequence[str], visible: Sequence[int], per_node: int, asked: int) -> Check:
    """Whether the ranks' GPUs are what the config asks for, and alike.

    devices: each rank's GPU, "cpu" for none. visible: GPUs that each rank sees on its node. per_node: ranks there.
    asked: `cluster.gpus_per_node`.
    """
    result: Result = "ok"
    advice = ""
    if asked and "cpu" in devices:
        result, advice = "fail", "the config asks for GPUs: look at nvidia-smi and torch.version.cuda there"
    elif len(set(devices)) > 1:
        result, advice = "warn", "the slowest GPU sets the pace of all: ask for one kind"
    elif any(count > per_node for count in visible):
        result, advice = "warn", f"{max(visible) - per_node} of {max(visible)} GPUs of a node stand idle"
    kinds = Counter(devices)
    odd = [rank for rank, device in enumerate(devices) if device != kinds.most_common(1)[0][0]]
    return Check(
        name="devices",
        result=result,
        figure=", ".join(f"{count} × {kind}" for kind, count in kinds.most_common())
        + (f" ({_ranks(odd)})" if odd else ""),
        bound=f"{_count(asked, 'GPU')} a node" if asked else "no GPU asked for",
        advice=advice,
        values={"devices": dict(kinds), "visible": max(visible), "ranks_per_node": per_node},
    )


def check_memory(needed: int, free: Sequence[int], micro_batch: str) -> Check:
    """Whether what the plan needs on a rank is there on each. free: bytes that tensors may fill, for each rank."""
    least = min(range(len(free)), key=free.__getitem__)
    short = [rank for rank, size in enumerate(free) if size < needed]
    return Check(
        name="memory",
        result="fail" if short else "ok",
        figure=f"{_bytes(needed)} planned for a rank",
        bound=f"{_bytes(free[least])} free on rank {least}",
        advice=f"{_ranks(short)} too small or in use by others; {micro_batch}" if short else "",
        values={"needed_bytes": needed, "free_bytes": min(free), "ranks": short},
    )


CLOCK_BOUND_S = 1.0
"""When a job fails, the rank that ended first is named as its cause, by the ranks' clocks (cluster/outcome.py); its
peers lose their connection within about a second."""


def check_clocks(offsets_s: Sequence[float]) -> Check:
    """How far apart the ranks' clocks are. offsets_s: each rank's clock minus rank 0's, in seconds."""
    middle = statistics.median_low(offsets_s)  # of two, rank 0 is right
    worst = max(range(len(offsets_s)), key=lambda rank: abs(offsets_s[rank] - middle))
    spread = max(offsets_s) - min(offsets_s)
    wrong = spread > CLOCK_BOUND_S
    return Check(
        name="clocks",
        result="fail" if wrong else "ok",
        figure=f"{_seconds(spread)} apart" + (f", rank {worst} the farthest" if wrong else ""),
        bound=f"≤ {_seconds(CLOCK_BOUND_S)}",
        advice="set the clock of its node by NTP: journals and causes of failure go by it" if wrong else "",
        values={"spread_s": spread, "rank": worst},
    )


SHARED_BOUND_S = 10.0
"""A file server's clients may take seconds to see a new name; the notice before a time limit comes minutes ahead."""


def check_notice(delays_s: Sequence[float | None]) -> Check:
    """Whether the file that tells a run to stop reaches all ranks: they must share the workspace. delays_s: seconds
    until each rank saw what rank 0 had written; None if it never did."""
    unseen = [rank for rank, delay in enumerate(delays_s) if delay is None]
    seen = [delay for delay in delays_s if delay is not None]
    return Check(
        name="stop notice",
        result="fail" if unseen else "ok",
        figure=f"never reached {_ranks(unseen)}" if unseen else f"on all ranks after {_seconds(max(seen))}",
        bound=f"≤ {_seconds(SHARED_BOUND_S)}",
        advice="give a workspace that all nodes share" if unseen else "",
        values={"slowest_s": max(seen, default=None), "unseen": unseen},
    )


def check_disk_space(free: int, checkpoint_bytes: int, kept: int) -> Check:
    """Whether the kept checkpoints fit, and the one more that is being written before the oldest is deleted."""
    needed = (kept + 1) * checkpoint_bytes
    return Check(
        name="disk space",
        result="ok" if needed <= free else "fail",
        figure=f"{_bytes(free)} free",
        bound=f"≥ {_bytes(needed)}: {kept} + 1 checkpoints of {_bytes(checkpoint_bytes)}",
        advice=""
        if needed <= free
        else "free some space, lower train.checkpoint.keep_last, or choose another workspace",
        values={"free_bytes": free, "needed_bytes": needed},
    )


def check_disk_speed(written: int, seconds: Sequence[float], checkpoint_bytes: int, between_s: float | None) -> Check:
    """Whether a checkpoint is on disk before the next one is due. seconds: that each rank took for its share of
    `written` bytes, all at once, fsync included. between_s: planned seconds between two checkpoints, if known."""
    slowest = max(range(len(seconds)), key=seconds.__getitem__)
    rate = written / max(seconds[slowest], 1e-9)
    save_s = checkpoint_bytes / rate
    result = grade(save_s, between_s)
    return Check(
        name="disk speed",
        result=result,
        figure=f"{rate / 1e6:,.0f} MB/s, so {_seconds(save_s)} a checkpoint; rank {slowest} the slowest",
        bound="not known" if between_s is None else f"≤ {_seconds(between_s)}, from one to the next as planned",
        advice="" if result == "ok" else "raise train.checkpoint.every_steps, or choose a faster workspace",
        values={"bytes_per_s": rate, "save_s": save_s, "between_s": between_s, "slowest_rank": slowest},
    )


# --- the network ------------------------------------------------------------------------------------------------------


def bus_bandwidth(collective: str, size_bytes: int, seconds: float, ranks: int) -> float:
    """Bytes/s that the slowest link carries, whatever the number of ranks: comparable with the hardware's figure.

    nccl-tests, doc/PERFORMANCE.md: size/time × 2(n-1)/n for all-reduce, × (n-1)/n for the others, where size is that of
    the whole buffer.
    """
    turns = 2 if collective == "all-reduce" else 1
    return size_bytes / seconds * turns * (ranks - 1) / ranks


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A collective at one size, as one rank saw it."""

    collective: str
    size_bytes: int
    seconds: float
    """Of one call, on average."""
    ranks: int
    """How many take part."""


def step_traffic_s(
    rates: Mapping[str, float], stage: int, gradient_bytes: int, weight_bytes: int, reductions: int, world_size: int
) -> float:
    """Seconds that the collectives of a step take at the measured bus bandwidths (bytes/s by collective).

    Rajbhandari et al. (2020), section 7: stages 0 to 2 move gradients by reduce-scatter and then gather the updated
    weights, in all what an all-reduce moves; stage 3 gathers weights for forward and for backward. reductions:
    micro-batches of a step, each of which stages 2 and 3 reduce by itself.
    """
    share = (world_size - 1) / world_size
    scatter_s, gather_s = gradient_bytes * share / rates["reduce-scatter"], weight_bytes * share / rates["all-gather"]
    if stage == 0:
        return 2 * gradient_bytes * share / rates["all-reduce"]
    if stage == 3:
        return reductions * (scatter_s + 2 * gather_s)
    return (reductions if stage == 2 else 1) * scatter_s + gather_s


def exchange_s(rates: Mapping[str, float], exchanged_bytes: int, peers: int) -> float:
    """Seconds of a step in which ranks that share sequences exchange heads for positions; those of a group that is no
    slower than the others."""
    return exchanged_bytes * (peers - 1) / peers / rates["all-to-all"] if exchanged_bytes else 0.0


def check_bandwidth(ranks: Sequence[Sequence[Timed]], traffic: "Traffic | None") -> Check:
    """Bus bandwidth at each size, and whether a step waits for the network longer than it computes."""
    rates = average_rates(ranks)
    best = {name: max(by_size.values()) for name, by_size in rates.items()}
    figure = ", ".join(f"{name} {_scaled(rate, 'B/s')}" for name, rate in best.items())
    values: dict[str, Any] = {
        "bus_bytes_per_s": {
            name: {str(size): rate for size, rate in by_size.items()} for name, by_size in rates.items()
        }
    }
    if traffic is None:
        return Check(name="bandwidth", result="ok", figure=figure, bound="not known", values=values)
    moving_s = exchange_s(best, traffic.exchanged_bytes, traffic.peers) + step_traffic_s(
        best, traffic.stage, traffic.gradient_bytes, traffic.weight_bytes, traffic.reductions, len(ranks)
    )
    result = grade(moving_s, traffic.compute_s)
    return Check(
        name="bandwidth",
        result=result,
        figure=f"{figure}; {_seconds(moving_s)} a step",
        bound=f"≤ {_seconds(traffic.compute_s)}, a step's computing as planned",
        advice=""
        if result == "ok"
        else "see by NCCL_DEBUG=INFO which network it takes; raise train.global_batch_size, or lower train.zero.stage "
        "or train.sequence_parallel",
        values=values | {"moving_s": moving_s, "compute_s": traffic.compute_s},
    )


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What the ranks of the real model would send each other in one step, and how long they would compute."""

    stage: int
    gradient_bytes: int
    weight_bytes: int
    reductions: int
    compute_s: float
    exchanged_bytes: int = 0
    """Of whole buffers, its own part included, that a rank exchanges with those that share its sequences."""
    peers: int = 1
    """How many share a sequence."""


def average_rates(ranks: Sequence[Sequence[Timed]]) -> dict[str, dict[int, float]]:
    """Bus bandwidth by collective and size, of the mean time over the ranks as nccl-tests reports it."""
    rates: dict[str, dict[int, float]] = {}
    for calls in zip(*ranks, strict=True):
        seconds = statistics.mean(call.seconds for call in calls)
        first = calls[0]
        rate = bus_bandwidth(first.collective, first.size_bytes, seconds, first.ranks)
        rates.setdefault(first.collective, {})[first.size_bytes] = rate
    return rates


WAITED_BOUND = 0.5
"""A healthy rank waits as long in a collective as its peers. One that enters it later is there for a shorter time."""
SPEED_BOUND = 0.8
"""Two GPUs of one kind differ by a few per cent; one that is throttled by heat or power by more."""


def check_slowest(waiting_s: Sequence[float], flops: Sequence[float]) -> Check:
    """Which rank the others wait for. waiting_s: each rank's time inside the collectives; flops: of its matrix
    products, FLOP/s."""
    last = min(range(len(waiting_s)), key=waiting_s.__getitem__)
    weakest = min(range(len(flops)), key=flops.__getitem__)
    awaited = waiting_s[last] / max(statistics.median(waiting_s), 1e-12)
    speed = flops[weakest] / statistics.median_high(flops)
    late, weak = len(waiting_s) > 1 and awaited < WAITED_BOUND, speed < SPEED_BOUND
    named = last if late else weakest
    what = (
        f"enters collectives last: in them for {awaited:.0%} of the median time"
        if late
        else f"{_scaled(flops[named], 'FLOP/s')}"
    )
    return Check(
        name="slowest rank",
        result="warn" if late or weak else "ok",
        figure=f"rank {named}, {what}" + ("" if late else f", {speed:.0%} of the median"),
        bound=f"≥ {WAITED_BOUND:.0%} in collectives, ≥ {SPEED_BOUND:.0%} of the speed",
        advice="look for other work, heat or a power limit on its node (nvidia-smi -q -d PERFORMANCE)"
        if late or weak
        else "",
        values={"rank": named, "waiting_share": awaited, "speed_share": speed, "flops": list(flops)},
    )


# --- the training state -----------------------------------------------------------------------------------------------


def check_streams(before: Sequence[Mapping[str, str]], after: Sequence[Mapping[str, str]]) -> Check:
    """Whether each rank draws other random numbers, and gets its own back from a checkpoint.

    before, after: digests of each rank's generators by name, as saved and as restored. Megatron-LM once restored one
    stream on 252 of 256 ranks.
    """
    shared = [
        (name, ranks)
        for kind in (before, after)
        for name in kind[0]
        for ranks in _groups([one[name] for one in kind])
        if len(ranks) > 1
    ]
    strayed = [rank for rank, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    problems = []
    if shared:
        name, ranks = max(shared, key=lambda item: len(item[1]))
        problems.append(f"{_ranks(ranks)} share one {name} stream")
    if strayed:
        problems.append(f"{_ranks(strayed)} did not get theirs back from a checkpoint")
    return Check(
        name="random streams",
        result="fail" if problems else "ok",
        figure="; ".join(problems) or f"{_count(len(before), 'stream')} ({', '.join(before[0])}), each restored",
        bound="one a rank, the same after a load",
        advice="seed each rank by its rank before anything draws" * bool(shared),
        values={"shared": sorted({rank for _, ranks in shared for rank in ranks}), "strayed": strayed},
    )


FP32_UNIT, BF16_UNIT, INT8_UNIT, INT4_UNIT = 2.0**-24, 2.0**-8, 2.0**-7, 2.0**-3
"""Unit roundoffs: half the distance from 1 to the next number."""
DEVIATIONS = 4.0


def gradient_bound(train: TrainConfig, world_size: int, sequence_length: int) -> float:
    """How far two correct gradients of one tensor may be apart: norm of the difference, as a share of the mean norm of
    a micro-batch's gradient.

    A rounded sum of n numbers is off by some √n unit roundoffs: the errors of single additions have mean 0 (Higham and
    Mary, 2019, theorem 3.1; the worst case n is never seen). In fp32 n is the positions of the global batch, each of
    which adds its part to each weight's gradient. With bf16 each of the A·W micro-batches' gradients is rounded as it
    leaves the model or travels. ZeRO++ rounds weights to int8 and gradients to int4. Four times that is allowed.
    """
    micro_batches = train.global_batch_size // train.micro_batch_size
    bound = math.sqrt(train.global_batch_size * sequence_length) * FP32_UNIT
    if train.precision == "bf16":
        bound += math.sqrt(micro_batches + 1) * BF16_UNIT
    if train.zero.zero_quantized_weights:
        bound += INT8_UNIT
    if train.zero.zero_quantized_gradients:
        bound += math.sqrt(world_size) * INT4_UNIT
    return DEVIATIONS * bound


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a rank's part of the gradients that DeepSpeed arrived at differs from plain data parallel's."""

    worst: float
    """Norm of the difference, by tensor the largest, as a share of the mean norm of a micro-batch's gradient."""
    tensor: str
    norm: float | None
    """The same of the global norm that the engine reports; None with Muon, where it is that of the updates."""
    excess: float | None
    """What the gradients of all ranks hold too much of this rank's own share: 0 none, -1 it is missing. None where
    ranks share sequences: in attention their shares mix."""
    weights: str
    """Digest of the weights after the step; empty where they are sharded."""


def check_gradients(ranks: Sequence[Difference], bound: float) -> Check:
    """Whether what enters the optimizer is the gradient of the global batch: clipped, reduced and sharded or not."""
    worst = max(range(len(ranks)), key=lambda rank: _or_inf(ranks[rank].worst))
    wrong = [rank for rank, one in enumerate(ranks) if not one.worst <= bound]
    # A norm is off by no more than the norm of the difference, so the same bound holds for it.
    norms = [_or_inf(one.norm) for one in ranks if one.norm is not None]
    wrong_norm = any(one > bound for one in norms)
    groups = sorted(_groups([one.weights for one in ranks]), key=len, reverse=True)
    problems, advice = [], ""
    if wrong:
        where = ranks[worst]
        problems.append(f"off by {where.worst:.2g} at worst, in {where.tensor}")
        if len(wrong) < len(ranks):
            advice = f"only what {_ranks(wrong)} holds is wrong; "
        elif all(one.excess is not None for one in ranks):
            excesses = [one.excess or 0.0 for one in ranks]
            named = max(range(len(ranks)), key=lambda rank: abs(excesses[rank]))
            advice = f"it looks like rank {named}'s share, counted {1 + excesses[named]:.2f} times; "
        else:
            advice = "see whether it is right with train.sequence_parallel=1; "
    if wrong_norm:
        problems.append(f"the global norm by {max(norms):.2g}")
    if len(groups) > 1:
        problems.append(f"{_ranks(sorted(rank for group in groups[1:] for rank in group))} left with other weights")
    if problems:
        advice += "do not train with this train.zero: try another stage, and report it"
    return Check(
        name="gradients",
        result="fail" if problems else "ok",
        figure="; ".join(problems) or f"as plain data parallel's within {ranks[worst].worst:.2g}",
        bound=f"≤ {bound:.2g}",
        advice=advice,
        values={"worst": _finite(ranks[worst].worst), "bound": bound, "ranks": wrong},
    )


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """Digests of all that a rank holds of the training state."""

    saved: str
    loaded: str
    """In a new engine that read the checkpoint."""
    went_on: str
    """One step after the save, in the engine that saved."""
    resumed: str
    """The same step in the new one."""


def check_round_trip(ranks: Sequence[RoundTrip], size_bytes: int) -> Check:
    """Whether a resume is bitwise: the state comes back as it was, and goes on as it would have."""
    lost = [rank for rank, one in enumerate(ranks) if one.saved != one.loaded]
    apart = [rank for rank, one in enumerate(ranks) if one.went_on != one.resumed]
    problems = [f"the state of {_ranks(lost)} came back changed"] * bool(lost)
    problems += [f"the next step of {_ranks(apart)} came out differently"] * bool(apart)
    return Check(
        name="save and load",
        result="fail" if problems else "ok",
        figure="; ".join(problems) or f"{_bytes(size_bytes)} came back, and the next step is the same",
        bound="bitwise",
        advice="do not rely on resuming with this train.zero: try another stage, and report it" if problems else "",
        values={"lost": lost, "apart": apart},
    )


# --- words ------------------------------------------------------------------------------------------------------------


def _groups(values: Sequence[str]) -> list[list[int]]:
    """The ranks that share a value, value by value."""
    groups: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        groups.setdefault(value, []).append(rank)
    return list(groups.values())


def _ranks(ranks: Any) -> str:
    listed = sorted(ranks)
    named = ", ".join(map(str, listed[:4]))
    more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
    return f"rank{'s' if len(listed) > 1 else ''} {named}{more}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _or_inf(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _three(value: float) -> str:
    """Three figures at least, and no exponent."""
    return f"{value:,.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def _scaled(value: float, unit: str) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{_three(value / size)} {letter}{unit}"
    return f"{value:.0f} {unit}"


def _bytes(value: float) -> str:
    """Decimal units, as disks and GPUs are sold."""
    return _scaled(value, "B")


def _seconds(value: float) -> str:
    for size, unit in ((172_800, "days"), (7200, "h"), (120, "min"), (1, "s")):
        if value >= size:
            return f"{_three(value / {'days': 86_400, 'h': 3600, 'min': 60, 's': 1}[unit])} {unit}"
    return f"{_three(value * 1000)} ms"
