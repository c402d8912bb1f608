"""Mixture: position -> (source, the source's own position), in closed form.

Positions are cut into blocks of BLOCK. Each block holds exactly `quota[i]` sequences of source i, in an order permuted
anew in each block, so the mix is exact over every block and random inside it. Nothing is counted along the way: the
k-th sequence of source i in block b is the source's own position b * quota[i] + k.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.data.permutation import key_of, permute

BLOCK = 4096
"""Grain of a weight: 1/4096."""


def quotas(weights: tuple[float, ...], block: int = BLOCK) -> tuple[int, ...]:
    """How many sequences of each block a source gets: largest remainders, and at least one for each source."""
    assert 0 < len(weights) <= block
    assert all(weight > 0 for weight in weights)
    total = sum(weights)
    exact = [weight / total * block for weight in weights]
    counts = [max(1, int(share)) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (int(exact[i]) - exact[i], i))
    for i in range(block - sum(counts)):
        counts[by_remainder[i % len(counts)]] += 1
    while sum(counts) > block:  # many tiny weights were raised to one: the largest pays
        counts[counts.index(max(counts))] -= 1
    return tuple(counts)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    weights: tuple[float, ...]
    key: int

    @cached_property
    def quotas(self) -> tuple[int, ...]:
        return quotas(self.weights)

    def locate(self, position: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """(source, the source's own position) for each global position."""
        block, offset = position // np.uint64(BLOCK), position % np.uint64(BLOCK)
        place = permute(offset, BLOCK, key_of(self.key, block))
        ends = np.cumsum(np.asarray(self.quotas, dtype=np.uint64))
        source = np.searchsorted(ends, place, side="right")
        quota = np.asarray(self.quotas, dtype=np.uint64)[source]
        own_position = block * quota + (place - (ends[source] - quota))
        return source.astype(np.uint64), own_position

    def position_of(self, source: NDArray[np.uint64], own_position: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The inverse of `locate`: the global position at which a source's own position stands."""
        quotas = np.asarray(self.quotas, dtype=np.uint64)
        quota, start = quotas[source], (np.cumsum(quotas) - quotas)[source]
        block, place = own_position // quota, start + own_position % quota
        return block * np.uint64(BLOCK) + permute(place, BLOCK, key_of(self.key, block), inverse=True)
