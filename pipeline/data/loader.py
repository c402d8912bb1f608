"""Batches of token ids, read straight out of memory-mapped shards, ahead of need.

    step ──Batches, rank_positions──> positions ──Order.locate──> (source, shard, row) ──CorpusShards──> tokens

There is no state to save or lose: a batch is a function of the step. A thread reads some steps at once into one of two
buffers while training takes its steps from the other. So a shard is gathered from once for all of them, waking the
thread costs next to nothing a step, and on a GPU the buffers are pinned once and for all. Tokens stay as they are
stored, two or four bytes each, until they are on the device.
"""

from collections.abc import Callable
from functools import lru_cache
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import DataError
from data_prep.manifest import Manifest, ShardRecord
from data_prep.pack import Tokens
from data_prep.remote import one_line
from pipeline.batches import Batches
from pipeline.data.corpus_shards import CorpusShards
from pipeline.data.order import Order, SequenceIds, rank_positions

BUFFER_BYTES = 8 << 20
"""Read at once, if it is more than a step: waking the thread takes 0.1 ms, reading a step of 64k tokens 0.04."""
BUFFER_STEPS = 64
"""And no more steps than these, however small they are."""
LOCATED_ROWS = 8192
"""Rows located at once: numpy's cost for all the calls is that of some thousand elements."""
GATHERED_BYTES = 512 << 10
"""Taken out of a shard at a time: looked at and put down while they are in the core's cache. Of less, handing Python's
lock back and forth costs more than is won."""
CLOSE_S = 5.0
"""How long `close` waits for the thread, which may hang on a disk or a store that does not answer."""


class Loader:
    """One rank's batches. `Loader(...).batch(step)` gives token ids (accumulation, micro_batch_size, sequence_length),
    uint16 or uint32 as in the shards.

    `shards` are closed with the loader. `allocate` makes a buffer of a shape and dtype, in pinned memory if batches go
    to a GPU.
    """

    def __init__(
        self,
        shards: CorpusShards,
        manifest: Manifest,
        order: Order,
        *,
        rank: int,
        world_size: int,
        batches: Batches,
        micro_batch_size: int,
        allocate: Callable[[tuple[int, int], str], Tokens] = np.empty,
    ) -> None:
        rows = batches.size // world_size  # in the largest step
        steps = max(1, min(BUFFER_STEPS, BUFFER_BYTES // (rows * manifest.stride)))
        steps_located = steps * max(1, LOCATED_ROWS // (steps * rows))

        @lru_cache(maxsize=2)
        def located(block: int) -> SequenceIds:
            # Steps end where micro-batches do, so those of many steps are dealt to the ranks as those of one.
            positions = range(*(batches.first((block + more) * steps_located) for more in (0, 1)))
            return order.locate(rank_positions(positions, rank, world_size, micro_batch_size).reshape(-1))

        self._steps, self._steps_located, self._located = steps, steps_located, located
        self._batches, self._world_size, self._micro_batch_size = batches, world_size, micro_batch_size
        self._shards, self._manifest = shards, manifest
        self._records = [manifest.source_shards(source.name) for source in manifest.sources]
        self._buffer, self._spare = (
            allocate((steps * rows, manifest.sequence_length), manifest.token_dtype) for _ in range(2)
        )
        self._group: int | None = None  # whose steps are in the buffer: [group * steps, (group + 1) * steps)
        self._coming: int | None = None  # and which group is read into the spare one
        self._asked: SimpleQueue[tuple[int, Tokens] | None] = SimpleQueue()
        self._read_or_failed: SimpleQueue[Exception | None] = SimpleQueue()
        self._reader = Thread(target=self._read_ahead, name="loader", daemon=True)
        self._reader.start()

    def batch(self, step: int) -> Tokens:
        """The batch of a step, counted from 0, which stays as it is until the next call.

        Raises DataError, naming file and row, if its sequences cannot be read or are not token ids."""
        if step // self._steps != self._group:
            self._turn_to(step // self._steps)
        first = self._row_of(step)
        rows = self._buffer[first : first + len(self._batches.positions(step)) // self._world_size]
        return rows.reshape(-1, self._micro_batch_size, self._manifest.sequence_length)

    def close(self) -> None:
        """Ends the thread; one that hangs is left behind, and ends with the process."""
        self._shards.close()
        self._asked.put(None)
        self._reader.join(CLOSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _row_of(self, step: int) -> int:
        """Where this rank's rows of a step begin among those of its group."""
        return (self._batches.first(step) - self._batches.first(step // self._steps * self._steps)) // self._world_size

    def _turn_to(self, group: int) -> None:
        """Makes a group the current one, and has the next one read into what was its buffer."""
        if self._coming != group:
            if self._coming is not None:
                self._read_or_failed.get()  # training went elsewhere
            self._ask(group)
        error = self._read_or_failed.get()
        self._group = self._coming = None
        if error is not None:
            raise error
        self._buffer, self._spare, self._group = self._spare, self._buffer, group
        self._ask(group + 1)

    def _ask(self, group: int) -> None:
        self._coming = group
        self._asked.put((group, self._spare))

    def _read_ahead(self) -> None:
        """What the thread does: one answer to each question."""
        while (asked := self._asked.get()) is not None:
            try:
                self._read(*asked)
                self._read_or_failed.put(None)
            except Exception as error:
                self._read_or_failed.put(error)

    def _read(self, group: int, buffer: Tokens) -> None:
        first, end = (self._batches.first((group + more) * self._steps) for more in (0, 1))
        self._shards.prepare(first)
        block = group * self._steps // self._steps_located
        begin = (first - self._batches.first(block * self._steps_located)) // self._world_size
        here = slice(begin, begin + (end - first) // self._world_size)
        ids = self._located(block)
        source, shard, row = ids.source[here], ids.shard[here], ids.row[here]
        file_of = source << 32 | shard
        for file in np.unique(file_of):  # each shard is opened once
            places = np.flatnonzero(file_of == file)
            self._gather(self._records[int(file >> 32)][int(file & 0xFFFFFFFF)], row[places], buffer, places)

    def _gather(self, shard: ShardRecord, rows: NDArray[np.int64], buffer: Tokens, places: NDArray[np.intp]) -> None:
        """buffer[places] = rows of the shard, if all of them are token ids."""
        at_once = max(1, GATHERED_BYTES // self._manifest.stride)
        try:
            with self._shards.opened(shard) as tokens:
                for at in range(0, len(rows), at_once):
                    taken = tokens[rows[at : at + at_once]]
                    if taken.max() >= self._manifest.vocab_size:
                        bad = rows[at : at + at_once][(taken >= self._manifest.vocab_size).any(axis=1)][0]
                        raise ValueError(f"row {bad} has an id beyond the vocabulary; fetch it again or run prep again")
                    buffer[places[at : at + at_once]] = taken
        except (OSError, ValueError) as error:
            raise DataError(f"{shard.name}, wanted from row {rows[0]} on: {one_line(error)}") from error
