"""Mixture: position -> (source, the source's own position), in closed form.

Positions are cut into blocks of BLOCK. Each block holds exactly `quota[i]` sequences of source i, in an order permuted
anew in each block, so the mix is exact over every block and random inside it. Nothing is counted along the way: where
quotas never change, the k-th sequence of source i in block b is the source's own position b * quota[i] + k. Where they
change at some blocks, that holds from each of these on, counted from what the source had given before: a sum over the
few changes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data_prep.weights import BLOCK
from pipeline.data.permutation import U64, key_of, permute


def quotas(weights: tuple[float, ...], block: int = BLOCK) -> tuple[int, ...]:
    """How many sequences of each block a source gets: largest remainders, and at least one for each source that has a
    weight."""
    assert 0 < len(weights) <= block
    assert min(weights) >= 0 < max(weights)
    total = sum(weights)
    exact = [weight / total * block for weight in weights]
    counts = [max(1, int(share)) if weight else 0 for share, weight in zip(exact, weights, strict=True)]
    by_remainder = sorted(range(len(weights)), key=lambda i: (int(exact[i]) - exact[i], i))
    for i in range(block - sum(counts)):  # never as many as have a remainder, so none goes to a weight of 0
        counts[by_remainder[i % len(counts)]] += 1
    while sum(counts) > block:  # many tiny weights were raised to one: the largest pays
        counts[counts.index(max(counts))] -= 1
    return tuple(counts)


@dataclass(frozen=True, kw_only=True)
class Change:
    """Other weights from some block on."""

    first_block: int
    weights: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    weights: tuple[float, ...]
    """One a source, from the first block on; 0 for one that takes no part."""
    key: int
    changes: tuple[Change, ...] = ()
    """Ascending."""

    # Tables of one row a stage, which is what lies between two changes, and one column a source.

    @cached_property
    def _first_blocks(self) -> U64:
        return np.asarray([0, *(change.first_block for change in self.changes)], dtype=np.uint64)

    @cached_property
    def _quotas(self) -> U64:
        return np.asarray([quotas(self.weights), *(quotas(one.weights) for one in self.changes)], dtype=np.uint64)

    @cached_property
    def _starts(self) -> U64:
        """Where a source's places in a block begin."""
        return np.cumsum(self._quotas, axis=1, dtype=np.uint64) - self._quotas

    @cached_property
    def _given(self) -> U64:
        """How many sequences a source has given before the stage."""
        in_stages = np.diff(self._first_blocks)[:, None] * self._quotas[:-1]
        return np.concatenate([np.zeros_like(self._quotas[:1]), np.cumsum(in_stages, axis=0, dtype=np.uint64)])

    @cached_property
    def _ends(self) -> U64:
        """Where the places of each stage's sources end, one stage behind the other: in one row, to search in."""
        stage = np.arange(len(self._quotas), dtype=np.uint64)[:, None]
        return (stage * np.uint64(BLOCK) + self._starts + self._quotas).reshape(-1)

    def _stage(self, block: U64) -> U64:
        return np.searchsorted(self._first_blocks, block, side="right").astype(np.uint64) - np.uint64(1)

    def given_before(self, source: int, block: int) -> int:
        """How many sequences a source gives before a block."""
        [stage] = self._stage(np.asarray([block], dtype=np.uint64)).tolist()
        blocks = block - int(self._first_blocks[stage])
        return int(self._given[stage, source]) + blocks * int(self._quotas[stage, source])

    def locate(self, position: U64) -> tuple[U64, U64]:
        """(source, the source's own position) for each global position."""
        block, offset = position // np.uint64(BLOCK), position % np.uint64(BLOCK)
        place = permute(offset, BLOCK, key_of(self.key, block))
        stage = self._stage(block)
        at = np.searchsorted(self._ends, stage * np.uint64(BLOCK) + place, side="right")
        quota, start, given = (table.reshape(-1)[at] for table in (self._quotas, self._starts, self._given))
        own_position = given + (block - self._first_blocks[stage]) * quota + (place - start)
        return at.astype(np.uint64) - stage * np.uint64(len(self.weights)), own_position

    def position_of(self, source: U64, own_position: U64) -> NDArray[np.int64]:
        """The inverse of `locate`: the global position at which a source's own position stands; -1 if it never comes,
        because the source's weight is 0 in the end."""
        stage = (self._given[:, source] <= own_position).sum(axis=0, dtype=np.uint64) - np.uint64(1)
        quota, start, given = (table[stage, source] for table in (self._quotas, self._starts, self._given))
        comes = quota > 0
        blocks, place = np.divmod(own_position - given, np.maximum(quota, np.uint64(1)))
        block = self._first_blocks[stage] + blocks
        offset = permute(np.where(comes, start + place, np.uint64(0)), BLOCK, key_of(self.key, block), inverse=True)
        return np.where(comes, (block * np.uint64(BLOCK) + offset).astype(np.int64), -1)
