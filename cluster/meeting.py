"""Nobody waits at the rendezvous for a rank that has ended.

A rank that finds a mistake before the ranks meet ends at once. Its peers on the node stand in the rendezvous of torch,
where a SIGTERM only raises the flag of a notice: torchrun kills them 30 s later, which no option of its changes
(`SubprocessContext._poll` calls `close()` with that default). But the rank that has ended has left its code in the
attempt's folder (cluster/rank.py), where all ranks look. A slow rank leaves none, and is waited for as ever.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster.job import EXIT_STOPPED
from cluster.outcome import read_codes
from cluster.signals import STOP_FILE_VARIABLE

POLL_S = 1.0
EXIT_IN_VAIN = 128 + 15
"""As if ended by SIGTERM: to the job's outcome that is no cause (cluster/outcome.py)."""


def code_in_vain(peer_code: int) -> int:
    """What a rank ends with that has waited for one that ended with `peer_code`: stopped too if that one was."""
    return EXIT_STOPPED if peer_code == EXIT_STOPPED else EXIT_IN_VAIN


@contextmanager
def while_all_come(
    rank: int, env: Mapping[str, str] = os.environ, end: Callable[[int], object] = os._exit, poll_s: float = POLL_S
) -> Iterator[None]:
    """Put around the rendezvous: if another rank of this attempt ends meanwhile, or has ended, so does this process.

    It was not trained and nothing was saved yet, so nothing is lost. Without a launcher of ours nobody records how
    ranks end, and nothing is watched.
    """
    stop = env.get(STOP_FILE_VARIABLE)
    if not stop:
        yield
        return
    attempt, met = Path(stop).parent, threading.Event()

    def watch() -> None:
        while not (codes := read_codes(attempt)) and not met.wait(poll_s):
            pass
        if codes and not met.is_set():
            peer, code = next(iter(codes.items()))
            # Not as one of our own last lines, which tell the user why a job failed: the peer's does.
            sys.stderr.write(f"rank {rank} ends: rank {peer} ended with {code} before all ranks had met\n")
            sys.stderr.flush()
            end(code_in_vain(code))

    thread = threading.Thread(target=watch, name="meeting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        met.set()
        thread.join()
