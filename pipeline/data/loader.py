"""Batches of token ids, read straight out of memory-mapped shards.

    step ──Batches, rank_positions──> positions ──Order.locate──> (source, shard, row) ──open_shard──> tokens

There is no state to save or lose: a batch is a function of the step. One batch is read ahead in a thread, so that the
pages of the next step are in memory when it begins.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import Manifest
from data_prep.shards import open_shard
from pipeline.batches import Batches
from pipeline.data.order import Order, SequenceIds, rank_positions

STEPS_LOCATED = 64
"""Steps whose sequences are located at once: numpy's cost for a call is that of some thousand elements."""

OPEN_SHARDS = 4096
"""Shards kept mapped at once: address space, not memory; the kernel keeps what it likes of their pages."""


class Loader:
    """One rank's batches. `Loader(...).batch(step)` gives int64 token ids (accumulation, micro_batch_size,
    sequence_length)."""

    def __init__(
        self,
        corpus: Path,
        manifest: Manifest,
        order: Order,
        *,
        rank: int,
        world_size: int,
        batches: Batches,
        micro_batch_size: int,
    ) -> None:
        self._sequence_length = manifest.sequence_length
        self._batches = batches
        self._split = (rank, world_size, micro_batch_size)
        shards = [manifest.source_shards(source.name) for source in manifest.sources]

        @lru_cache(maxsize=OPEN_SHARDS)
        def shard_tokens(source: int, shard: int) -> NDArray[Any]:
            return open_shard(corpus / "shards" / shards[source][shard].name, manifest)

        @lru_cache(maxsize=2)
        def sequences(block: int) -> SequenceIds:
            steps = range(block * STEPS_LOCATED, (block + 1) * STEPS_LOCATED)
            parts = [rank_positions(batches.positions(step), *self._split).reshape(-1) for step in steps]
            return order.locate(np.concatenate(parts))

        self._shard_tokens = shard_tokens
        self._sequences = sequences
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._ahead: tuple[int, Future[NDArray[np.int64]]] | None = None

    def batch(self, step: int) -> NDArray[np.int64]:
        """The batch of a step, counted from 0; the step after it is read ahead."""
        if self._ahead is not None and self._ahead[0] == step:
            batch = self._ahead[1].result()
        else:
            batch = self._read(step)
        self._ahead = (step + 1, self._reader.submit(self._read, step + 1))
        return batch

    def _read(self, step: int) -> NDArray[np.int64]:
        _, world_size, micro_batch_size = self._split
        block = step // STEPS_LOCATED
        first, positions = self._batches.first(block * STEPS_LOCATED), self._batches.positions(step)
        at, count = (positions.start - first) // world_size, len(positions) // world_size
        ids = self._sequences(block)
        source, shard, row = (part[at : at + count] for part in (ids.source, ids.shard, ids.row))
        tokens = np.empty((count, self._sequence_length), dtype=np.int64)
        file_of = source << 32 | shard
        for file in np.unique(file_of):  # each shard is gathered from once
            here = np.flatnonzero(file_of == file)
            tokens[here] = self._shard_tokens(int(file >> 32), int(file & 0xFFFFFFFF))[row[here]]
        return tokens.reshape(-1, micro_batch_size, self._sequence_length)

    def close(self) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._shard_tokens.cache_clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
