"""Verdicts on the machines: ranks, software, devices, memory, clocks, and the workspace that they share."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.doctor.checks.verdict import Check, Result, grade
from pipeline.doctor.checks.words import bytes_text, count_text, ranks_text, seconds_text


def check_ranks(found: int, asked: int, hosts: Sequence[str]) -> Check:
    """Whether as many ranks met as the config asks for."""
    nodes = len(set(hosts))
    return Check(
        name="ranks",
        result="ok" if found == asked else "warn",
        figure=f"{count_text(found, 'rank')} on {count_text(nodes, 'node')}",
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
            mixed[package] = f"{package} {', '.join(sorted(set(odd.values())))} on {ranks_text(odd)}, elsewhere {usual}"
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
        + (f" ({ranks_text(odd)})" if odd else ""),
        bound=f"{count_text(asked, 'GPU')} a node" if asked else "no GPU asked for",
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
        figure=f"{bytes_text(needed)} planned for a rank",
        bound=f"{bytes_text(free[least])} free on rank {least}",
        advice=f"{ranks_text(short)} too small or in use by others; {micro_batch}" if short else "",
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
        figure=f"{seconds_text(spread)} apart" + (f", rank {worst} the farthest" if wrong else ""),
        bound=f"≤ {seconds_text(CLOCK_BOUND_S)}",
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
        figure=f"never reached {ranks_text(unseen)}" if unseen else f"on all ranks after {seconds_text(max(seen))}",
        bound=f"≤ {seconds_text(SHARED_BOUND_S)}",
        advice="give a workspace that all nodes share" if unseen else "",
        values={"slowest_s": max(seen, default=None), "unseen": unseen},
    )


def check_disk_space(free: int, checkpoint_bytes: int, kept: int) -> Check:
    """Whether the kept checkpoints fit, and the one more that is being written before the oldest is deleted."""
    needed = (kept + 1) * checkpoint_bytes
    return Check(
        name="disk space",
        result="ok" if needed <= free else "fail",
        figure=f"{bytes_text(free)} free",
        bound=f"≥ {bytes_text(needed)}: {kept} + 1 checkpoints of {bytes_text(checkpoint_bytes)}",
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
        figure=f"{rate / 1e6:,.0f} MB/s, so {seconds_text(save_s)} a checkpoint; rank {slowest} the slowest",
        bound="not known" if between_s is None else f"≤ {seconds_text(between_s)}, from one to the next as planned",
        advice="" if result == "ok" else "raise train.checkpoint.every_steps, or choose a faster workspace",
        values={"bytes_per_s": rate, "save_s": save_s, "between_s": between_s, "slowest_rank": slowest},
    )
