"""Stragglers: which rank the others wait for.

Every rank ends a step at the same time, because it waits in the reduction of the gradients; so what is compared is the
time before any of them waits: reading the batch and the forward passes. At ZeRO stage 3 forward passes gather weights,
and where ranks share sequences they meet in each attention; the waiting shows there too: only a slow reader stands out.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from cluster.world import World

ALL_RANKS_EVERY = 100
"""Steps between two lines of the journal that hold the times of all ranks: a thousand of them would be most of it."""


class Stopwatch:
    """Adds up spans of a device's time."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        start = self._mark()
        yield
        self._spans.append((start, self._mark()))

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds(self) -> float:
        """To be called once the device has done its work: a GPU's times are not known before."""
        if self._on_gpu:
            return float(sum(start.elapsed_time(end) for start, end in self._spans)) / 1000
        return float(sum(end - start for start, end in self._spans))


def of_rank(seconds: float, world: World) -> list[float]:
    """One rank's time as a vector over the ranks, so that the sum of all ranks' vectors is the list of their times."""
    return [seconds if rank == world.rank else 0.0 for rank in range(world.size)]


def rank_figures(seconds: Sequence[float], step: int) -> dict[str, Any]:
    """What the journal says of the ranks' own times in a step: the slowest, and how many times as long as the median
    it took; now and then all of them. Nothing for a single rank."""
    if len(seconds) == 1:
        return {}
    slowest = max(range(len(seconds)), key=seconds.__getitem__)
    figures = {"slowest_rank": slowest, "slowest_over_median": round(seconds[slowest] / statistics.median(seconds), 3)}
    return figures | ({"rank_s": [round(one, 5) for one in seconds]} if step % ALL_RANKS_EVERY == 0 else {})
