"""Verdict on the folders of each machine that hold shards which training reads from the remote."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.doctor.checks.verdict import Check
from pipeline.doctor.checks.words import bytes_text, ranks_text


@dataclass(frozen=True, kw_only=True)
class CacheFolder:
    """As one rank sees it; the ranks of a machine share it."""

    host: str
    folder: str
    room_bytes: int
    """That shards may fill; 0 if there is a problem."""
    problem: str | None
    """Why it cannot be used, in one line that ends in `; what to do`."""


def check_cache(ranks: Sequence[CacheFolder], budget_bytes: int) -> Check:
    """Whether each machine has a folder that can be written to, with room for `data.cache_bytes`."""
    broken = {rank: one.problem for rank, one in enumerate(ranks) if one.problem}
    short = [rank for rank, one in enumerate(ranks) if one.problem is None and one.room_bytes < budget_bytes]
    least = min(ranks, key=lambda one: one.room_bytes)
    if broken:
        what, _, advice = next(iter(broken.values())).rpartition("; ")
        figure = f"{ranks_text(broken)}: {what}"
    else:
        figure = f"{bytes_text(least.room_bytes)} free for shards in {least.folder} on {least.host}"
        advice = f"lower data.cache_bytes, or choose a data.cache_folder with more room on {least.host}" * bool(short)
    return Check(
        name="shard cache",
        result="fail" if broken or short else "ok",
        figure=figure,
        bound=f"≥ {bytes_text(budget_bytes)}, data.cache_bytes",
        advice=advice,
        values={
            "room_bytes": least.room_bytes,
            "budget_bytes": budget_bytes,
            "ranks": sorted([*broken, *short]),
            "hosts": sorted({ranks[rank].host for rank in (*broken, *short)}),
        },
    )
