"""Documents to fixed-length sequences: where every token of a source lies, as arithmetic.

The rows of a source, one after another, are its stream; shard j holds its rows [j * n, (j + 1) * n). Two ways to pack:

    concatenate   |doc a....E|doc b..E|doc c..............E|doc d.E E E|      E: end-of-text, the last ones padding
    best_fit      |doc c........|....E doc d.E E|doc a....E E E|doc b..E E E E|

`concatenate` puts the documents, in shuffled order and each followed by the end-of-text token, one behind the other and
cuts them where a row ends. `best_fit` cuts no document that fits into a row, and pads rows instead (best_fit.py).

Documents are packed cell by cell: a cell is an equal slice of the shuffle key's range, about 16 MB of text. So no step
ever holds more than a cell, and the stream is a function of the documents alone, not of tasks, workers or shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

CONCATENATE = "concatenate"
BEST_FIT = "best_fit"
PACKINGS = (CONCATENATE, BEST_FIT)
CELL_BYTES = 16_000_000
"""Text of a cell, about: what two shards read in vain at their border, and all that best-fit can choose from."""

Tokens = npt.NDArray[np.unsignedinteger[Any]]
"""Token ids, uint16 or uint32."""
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class ShardSpan:
    """One shard's part of its source's stream."""

    number: int
    first_token: int
    end_token: int
    """Behind the stream's last token here; what the shard's last sequence lacks is padding."""
    num_sequences: int


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Where documents lie in a stream; one entry for what lies together, in order of position."""

    document: Int64s
    """Which of the given documents."""
    offset: Int64s
    """The piece's first token, counted in its document."""
    start: Int64s
    """That token's place in the stream."""
    length: Int64s
    """Tokens, end-of-text included and padding not."""

    def moved(self, by: int) -> "Pieces":
        """The same pieces, so many tokens further on."""
        return replace(self, start=self.start + by)


def shuffled(keys: UInt64s, content_high: UInt64s, content_low: UInt64s) -> Int64s:
    """The permutation that sorts documents by shuffle key; equal keys (equal ids) go by content, so it is total."""
    return np.lexsort((content_low, content_high, keys)).astype(np.int64)


def num_cells(text_bytes: int) -> int:
    """Into how many cells the documents of a source are divided, given their text, held-out documents included.

    A power of two, so that a little more text moves no document to another cell, until it moves all.
    """
    return 1 << (max(1, -(-text_bytes // CELL_BYTES)) - 1).bit_length()


def cell_of(keys: UInt64s, num_cells: int) -> Int64s:
    """Cell of each key: equal slices of the key's range, in order, so sorted cells one after another are sorted.

    Only the top 32 bits decide, which keeps `key * num_cells` inside 64 bits.
    """
    assert 1 <= num_cells < 2**31
    return (((keys >> np.uint64(32)) * np.uint64(num_cells)) >> np.uint64(32)).astype(np.int64)


def cell_start(cell: int, num_cells: int) -> int:
    """The smallest key of a cell; 2**64 for the cell behind the last."""
    return -(-cell * 2**32 // num_cells) << 32


def starts_of(cell_tokens: Sequence[int]) -> Int64s:
    """The stream's token with which each cell begins, and behind the last its end."""
    return np.concatenate([[0], np.cumsum(np.asarray(cell_tokens, dtype=np.int64))]).astype(np.int64)


def shard_spans(num_tokens: int, sequence_length: int, sequences_per_shard: int) -> tuple[ShardSpan, ...]:
    """Cuts a source's stream into shards. A source without tokens has none."""
    shard_tokens = sequence_length * sequences_per_shard
    return tuple(
        ShardSpan(
            number=number,
            first_token=first,
            end_token=min(first + shard_tokens, num_tokens),
            num_sequences=-(-(min(first + shard_tokens, num_tokens) - first) // sequence_length),
        )
        for number, first in enumerate(range(0, num_tokens, shard_tokens))
    )


def cells_of_span(span: ShardSpan, starts: Int64s) -> range:
    """The cells whose tokens the span needs, given where in the stream each begins."""
    first = int(np.searchsorted(starts, span.first_token, side="right")) - 1
    end = int(np.searchsorted(starts, span.end_token, side="left"))
    return range(first, end)


def lay_out(lengths: Int64s, sequence_length: int, packing: str) -> tuple[Pieces, int]:
    """Where the documents of a cell lie in its own stream, and how many tokens that has, padding between rows included.

    `lengths`: tokens of each document in shuffled order, end-of-text included.
    """
    if packing == CONCATENATE:
        ends = np.cumsum(lengths)
        starts = ends - lengths
        places = np.arange(len(lengths), dtype=np.int64)
        whole = Pieces(document=places, offset=np.zeros_like(places), start=starts, length=lengths)
        return whole, int(lengths.sum())
    from data_prep.best_fit import best_fit  # compiles a kernel, which readers of shards can do without

    assert packing == BEST_FIT
    return best_fit(lengths, sequence_length)


def clipped(pieces: Pieces, first_token: int, end_token: int) -> Pieces:
    """What of the pieces lies in [first_token, end_token) of their stream; starts are counted from `first_token`."""
    first = int(np.searchsorted(pieces.start + pieces.length, first_token, side="right"))
    last = max(first, int(np.searchsorted(pieces.start, end_token, side="left")))
    start, length = pieces.start[first:last], pieces.length[first:last]
    begin, end = np.maximum(start, first_token), np.minimum(start + length, end_token)
    return Pieces(
        document=pieces.document[first:last],
        offset=pieces.offset[first:last] + begin - start,
        start=begin - first_token,
        length=end - begin,
    )


def cut_documents(pieces: Pieces, lengths: Int64s, sequence_length: int) -> int:
    """How many of the documents that begin with one of these pieces lie in more than one sequence.

    Starts are counted from a row's begin. Wherever the rest of such a document lies, it is longer than its first row.
    """
    begins = pieces.offset == 0
    room = sequence_length - pieces.start[begins] % sequence_length
    return int((lengths[pieces.document[begins]] > room).sum())
