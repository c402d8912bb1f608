"""Which sequences make up global step N: arithmetic on (manifest, seed, N), and no index array at any size.

    position ──skipped windows──> place ──mixture──> (source, its own position) ──epoch's permutation──> (shard, row)

A run's positions have no gaps: what it leaves out, because it did harm, is stepped over by the first arrow. Where it
leaves out nothing, place and position are the same. `pipeline.batches` says which positions a step
takes, and of those micro-batch a of rank r, in a world of W ranks and with micro-batch size m, has the m positions from
a*W*m + r*m on. So the world size decides only who reads a position, never which positions a step holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_prep.files import canonical_json
from data_prep.manifest import Manifest
from data_prep.weights import BLOCK, first_blocks, mixes
from pipeline.config import RunConfig
from pipeline.data.mixture import Change, Mixture
from pipeline.data.permutation import U64, key_of, permute
from pipeline.data.position import ORDER_VERSION, Position, Window


@dataclass(frozen=True, kw_only=True)
class SequenceIds:
    """Where sequences lie, one element each: index of the source, shard of that source, row in that shard."""

    source: NDArray[np.int64]
    shard: NDArray[np.int64]
    row: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SourceOrder:
    """The order of one source's sequences: each epoch a new permutation of its shards and of the rows inside each."""

    num_sequences: int
    sequences_per_shard: int
    key: U64

    def locate(self, position: U64) -> tuple[U64, U64]:
        """(shard, row) of the source's own positions; position // num_sequences is the epoch."""
        shard, row = np.empty_like(position), np.empty_like(position)
        epochs = position // np.uint64(self.num_sequences)
        for epoch in np.unique(epochs):  # nearly always one or two
            here = epochs == epoch
            shard[here], row[here] = self._locate_in_epoch(position[here] % np.uint64(self.num_sequences), int(epoch))
        return shard, row

    @property
    def num_shards(self) -> int:
        return -(-self.num_sequences // self.sequences_per_shard)

    @property
    def _last_size(self) -> int:
        """Sequences in the last shard, which may be short."""
        return self.num_sequences - (self.num_shards - 1) * self.sequences_per_shard

    def _short_slot(self, key: U64) -> np.uint64:
        """Where in an epoch the last shard stands; before and after it all slots are full."""
        last_shard = np.asarray([self.num_shards - 1], dtype=np.uint64)
        slot: np.uint64 = permute(last_shard, self.num_shards, key, inverse=True)[0]
        return slot

    def position_of(self, shard: U64, row: U64, epoch: int) -> U64:
        """The inverse of `locate`: the source's own positions at which an epoch visits these sequences."""
        full, last = np.uint64(self.sequences_per_shard), np.uint64(self._last_size)
        key = key_of(self.key, epoch)
        slot = permute(shard, self.num_shards, key, inverse=True)
        offset = np.empty_like(row)
        in_last = shard == np.uint64(self.num_shards - 1)
        for members, size in ((in_last, int(last)), (~in_last, int(full))):
            offset[members] = permute(row[members], size, key_of(key, shard[members]), inverse=True)
        lacking = np.where(slot > self._short_slot(key), full - last, np.uint64(0))
        return np.uint64(epoch * self.num_sequences) + slot * full - lacking + offset

    def shards_from(self, position: int, count: int) -> list[int]:
        """The next `count` shards, in turn, that the source's own positions from this one on lie in."""
        epoch, x = divmod(position, self.num_sequences)
        [slot] = self._slots(np.asarray([x], dtype=np.uint64), key_of(self.key, epoch))[0].tolist()
        turns = [divmod(epoch * self.num_shards + slot + more, self.num_shards) for more in range(count)]
        return [
            int(permute(np.asarray([slot], dtype=np.uint64), self.num_shards, key_of(self.key, epoch))[0])
            for epoch, slot in turns
        ]

    def _slots(self, x: U64, key: U64) -> tuple[U64, U64]:
        """(slot, offset in it) of an epoch's positions. A slot is as long as the shard that stands there."""
        full, last = np.uint64(self.sequences_per_shard), np.uint64(self._last_size)
        short = self._short_slot(key)
        end = short * full + last
        after = x >= end
        slot = np.where(after, short + np.uint64(1) + (x - np.minimum(end, x)) // full, x // full)
        return slot, np.where(after, (x - np.minimum(end, x)) % full, x - np.minimum(slot * full, x))

    def _locate_in_epoch(self, x: U64, epoch: int) -> tuple[U64, U64]:
        key = key_of(self.key, epoch)
        slot, offset = self._slots(x, key)
        shard = permute(slot, self.num_shards, key)
        row = np.empty_like(x)
        in_short = shard == np.uint64(self.num_shards - 1)
        for members, size in ((in_short, self._last_size), (~in_short, self.sequences_per_shard)):
            row[members] = permute(offset[members], size, key_of(key, shard[members]))
        return shard, row


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of a whole run: position -> sequence."""

    manifest_digest: str
    seed: int
    mixture: Mixture
    sources: tuple[SourceOrder, ...]
    skipped: tuple[Window, ...] = ()
    """Windows of places that are stepped over: ascending, and none touches another."""

    def skipping(self, first: int, count: int) -> "Order":
        """The order without the positions [first, first + count): those after them move up."""
        start, last = self.places(np.asarray([first, first + count - 1])).tolist()
        return replace(self, skipped=joined([*self.skipped, Window(first=start, count=last + 1 - start)]))

    def places(self, position: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the given positions would stand if nothing were skipped."""
        place = position.astype(np.int64)
        for window in self.skipped:
            place = place + window.count * (place >= window.first)
        return place

    def changes(self) -> list[int]:
        """The positions from which on the sources have other weights, ascending."""
        return [
            place - sum(min(window.count, max(0, place - window.first)) for window in self.skipped)
            for place in (change.first_block * BLOCK for change in self.mixture.changes)
        ]

    def positions_at(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        """The inverse of `places`; -1 for a place that is skipped."""
        position, skipped = place.astype(np.int64), np.zeros(place.shape, dtype=bool)
        for window in self.skipped:
            position = position - window.count * (place >= window.first + window.count)
            skipped |= (place >= window.first) & (place < window.first + window.count)
        return np.where(skipped, -1, position)

    def locate(self, position: NDArray[np.int64]) -> SequenceIds:
        """The sequences at the given global positions."""
        source, own_position = self.mixture.locate(self.places(position).astype(np.uint64))
        shard, row = np.zeros_like(own_position), np.zeros_like(own_position)
        for at, order in enumerate(self.sources):
            here = source == at
            if here.any():
                shard[here], row[here] = order.locate(own_position[here])
        return SequenceIds(source=source.astype(np.int64), shard=shard.astype(np.int64), row=row.astype(np.int64))

    def shards_from(self, position: int, count: int) -> list[tuple[int, int]]:
        """The next `count` shards of each source that takes part, (source, shard), from the mixture block of a global
        position on: first all that are in use there, then all that follow on them, and so on."""
        block = int(self.places(np.asarray([position]))[0]) // BLOCK
        given = [[self.mixture.given_before(at, block + more) for more in (0, 1)] for at in range(len(self.sources))]
        turns = [
            [(at, shard) for shard in order.shards_from(first, count)]
            for at, (order, (first, end)) in enumerate(zip(self.sources, given, strict=True))
            if first < end
        ]
        return [turn[then] for then in range(count) for turn in turns]

    def positions_of(self, ids: SequenceIds, epoch: int) -> NDArray[np.int64]:
        """The inverse of `locate`: the global positions of these sequences in an epoch, which each source counts for
        itself from 0; -1 for a visit that is skipped, or that the source's weights never come to."""
        source, shard, row = (part.astype(np.uint64) for part in (ids.source, ids.shard, ids.row))
        own_position = np.zeros_like(source)
        for at, order in enumerate(self.sources):
            here = source == at
            if here.any():
                own_position[here] = order.position_of(shard[here], row[here], epoch)
        return self.positions_at(self.mixture.position_of(source, own_position))

    def epoch_of(self, position: NDArray[np.int64]) -> NDArray[np.int64]:
        """The epoch, of its source, in which each global position stands."""
        source, own_position = self.mixture.locate(self.places(position).astype(np.uint64))
        sizes = np.asarray([order.num_sequences for order in self.sources], dtype=np.uint64)
        return (own_position // sizes[source]).astype(np.int64)

    def epochs_before(self, source: int, position: int) -> int:
        """A bound on the epochs of a source that begin before a global position: those of whole mixture blocks."""
        place = int(self.places(np.asarray([position]))[0])
        given = self.mixture.given_before(source, -(-place // BLOCK))
        return -(-given // self.sources[source].num_sequences)

    def batch_digest(self, positions: range) -> str:
        """Digest of one step's sequences: two runs saw the same data if and only if these agree at each step."""
        ids = self.locate(np.arange(positions.start, positions.stop))
        hasher = xxhash.xxh3_128(canonical_json({"manifest": self.manifest_digest, "version": ORDER_VERSION}))
        hasher.update(np.stack([ids.source, ids.shard, ids.row]).astype("<i8").tobytes())
        return str(hasher.hexdigest())

    def position(self, next_sequence: int) -> Position:
        """The state of a run that has taken all positions before `next_sequence`. Windows further on are no part of it:
        a checkpoint from before a skip goes on into the order that has it."""
        last_place = int(self.places(np.asarray([next_sequence - 1]))[0])
        return Position(
            manifest_digest=self.manifest_digest,
            order_version=ORDER_VERSION,
            seed=self.seed,
            next_sequence=next_sequence,
            skipped=tuple(window for window in self.skipped if window.first < last_place),
        )


def joined(windows: Sequence[Window]) -> tuple[Window, ...]:
    """The same places in as few windows as there can be, ascending."""
    kept: list[Window] = []
    for window in sorted(windows, key=lambda one: one.first):
        if kept and window.first <= kept[-1].first + kept[-1].count:
            end = max(kept[-1].first + kept[-1].count, window.first + window.count)
            kept[-1] = Window(first=kept[-1].first, count=end - kept[-1].first)
        else:
            kept.append(window)
    return tuple(kept)


def order_of_config(config: RunConfig, manifest: Manifest, skipped: tuple[Window, ...] = ()) -> Order:
    """The order in which a run trains on a corpus. Weights change at the blocks nearest to where the config says."""
    first, *later = mixes([source.weight for source in config.data.sources])
    blocks = first_blocks(later, config.batches.first(config.total_steps))
    changes = tuple(Change(first_block=block, weights=mix.weights) for block, mix in zip(blocks, later, strict=True))
    return order_of(manifest, first.weights, config.train.seed, skipped, changes)


def order_of(
    manifest: Manifest,
    weights: tuple[float, ...],
    seed: int,
    skipped: tuple[Window, ...] = (),
    changes: tuple[Change, ...] = (),
) -> Order:
    """The order that trains on a corpus with the given source weights (in the manifest's order of sources)."""
    sources = tuple(
        SourceOrder(
            num_sequences=source.num_sequences,
            sequences_per_shard=manifest.sequences_per_shard,
            key=key_of(ORDER_VERSION, seed, at),
        )
        for at, source in enumerate(manifest.sources)
    )
    return Order(
        manifest_digest=manifest.digest,
        seed=seed,
        mixture=Mixture(weights=weights, key=int(key_of(seed)[0]), changes=changes),
        sources=sources,
        skipped=skipped,
    )


def rank_positions(positions: range, rank: int, world_size: int, micro_batch_size: int) -> NDArray[np.int64]:
    """Those of a step's positions that one rank takes, (accumulation, micro_batch_size)."""
    at_once = world_size * micro_batch_size
    assert len(positions) % at_once == 0, "check_batch refuses this before anything starts"
    starts = positions.start + rank * micro_batch_size + np.arange(len(positions) // at_once) * at_once
    return starts[:, None] + np.arange(micro_batch_size)[None, :]
