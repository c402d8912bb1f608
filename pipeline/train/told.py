"""What the record says of a notice to stop: when it came, and when all ranks had obeyed.

    {"kind": "told", "reason": "SIGTERM", "rank": 0, "heard_at": ...}                at once, also inside a long call
    {"kind": "notice", "step": 40, "reason": "SIGTERM", "rank": 0, "heard_at": ..., "waited_s": ...}      after the save

Only rank 0 writes to the journal, so a notice that came to another rank alone is in the job's log at once, and in the
journal once it was obeyed.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from cluster.signals import Heard, StopNotice
from cluster.world import World
from pipeline.monitor.journal import Journal


def on_record(world: World, journal: Journal | None) -> Callable[[Heard], None]:
    """Says to the job's log, and to the journal if this rank has one, that a notice has come. For the notice's thread,
    which the views of the journal are not made for; its next reader shows them the line."""

    def say(heard: Heard) -> None:
        clock = time.strftime("%H:%M:%S", time.localtime(heard.at))
        text = f"{clock} rank {world.rank}: told to stop ({heard.reason}): all ranks stop behind what they are at\n"
        sys.stderr.write(text)  # one write each: the ranks share a log
        sys.stderr.flush()
        if journal is not None:
            journal.append("told", reason=heard.reason, rank=world.rank, heard_at=round(heard.at, 3))

    return say


def first_heard(notice: StopNotice, world: World) -> dict[str, Any]:
    """The figures of the notice that came first to any rank, and the seconds since then. To be called by all ranks."""
    own = notice.heard
    gathered: list[tuple[float, int, str] | None] = [None] * world.size
    dist.all_gather_object(gathered, (own.at, world.rank, own.reason) if own is not None else None)
    heard_at, rank, reason = min(one for one in gathered if one is not None)
    # Another machine's clock may be ahead.
    return {"reason": reason, "rank": rank, "heard_at": round(heard_at, 3), "waited_s": max(time.time() - heard_at, 0)}
