"""Verdicts on what lies between the ranks, and on who is late."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.doctor.checks.verdict import Check, grade
from pipeline.doctor.checks.words import scaled, seconds_text


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
    figure = ", ".join(f"{name} {scaled(rate, 'B/s')}" for name, rate in best.items())
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
        figure=f"{figure}; {seconds_text(moving_s)} a step",
        bound=f"≤ {seconds_text(traffic.compute_s)}, a step's computing as planned",
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
        else f"{scaled(flops[named], 'FLOP/s')}"
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
