"""Verdicts on the durable tier: can it be used as training will use it, and does it keep up."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.doctor.checks.verdict import Check, Result
from pipeline.doctor.checks.words import ranks_text, scaled, seconds_text


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What a rank found at the remote. Rank 0 writes and fetches there, the first rank of each node reads."""

    problem: str | None = None
    """What failed, in one line that ends in `; what to do`."""
    left: str | None = None
    """The same of the removal of what was written."""
    up_bytes_per_s: float | None = None
    """Of one large file. Rank 0 has both rates, unless it failed."""
    down_bytes_per_s: float | None = None


def check_remote(url: str, visits: Sequence[Visit]) -> Check:
    """Whether files can be written, replaced, listed and read back, and, which only costs space, removed."""
    failed = {rank: visit.problem for rank, visit in enumerate(visits) if visit.problem}
    left = next((visit.left for visit in visits if visit.left), None)
    words = next(iter(failed.values()), left)
    what, _, advice = (words or "").rpartition("; ")
    result: Result = "fail" if failed else "warn" if left else "ok"
    return Check(
        name="remote",
        result=result,
        figure=f"{ranks_text(failed) + ': ' if failed else ''}{what or advice}" if words else f"{url} works",
        bound="written, replaced, listed, read back, removed",
        advice=advice if what else "",
        values={"url": url, "problems": {str(rank): problem for rank, problem in failed.items()}, "left": left},
    )


def check_remote_speed(visit: Visit, checkpoint_bytes: int | None, between_s: float | None) -> Check:
    """Whether a checkpoint is stored before the next one is due. It never fails: checkpoints that come meanwhile are
    passed over, and the newest is stored next.

    visit: rank 0's, which has the rates. checkpoint_bytes: if the plan knows it. between_s: planned seconds between two
    checkpoints, if known.
    """
    up, down = visit.up_bytes_per_s, visit.down_bytes_per_s
    assert up is not None
    assert down is not None
    figure = f"{scaled(up, 'B/s')} up, {scaled(down, 'B/s')} down"
    upload_s = checkpoint_bytes / up if checkpoint_bytes is not None else None
    fetch_s = checkpoint_bytes / down if checkpoint_bytes is not None else None
    if upload_s is not None and fetch_s is not None:
        figure += f"; a checkpoint {seconds_text(upload_s)} and {seconds_text(fetch_s)}"
    late = upload_s is not None and between_s is not None and upload_s > between_s
    return Check(
        name="remote speed",
        result="warn" if late else "ok",
        figure=figure,
        bound="not known" if between_s is None else f"≤ {seconds_text(between_s)} up, from one to the next as planned",
        advice="only every so many checkpoints will be stored; raise train.checkpoint.every_steps, or use a faster way "
        "to the store"
        if late
        else "",
        values={
            "up_bytes_per_s": up,
            "down_bytes_per_s": down,
            "upload_s": upload_s,
            "fetch_s": fetch_s,
            "between_s": between_s,
        },
    )
