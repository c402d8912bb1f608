"""Documents to fixed-length sequences: where every token of a source lies, as arithmetic.

The documents of a source, in shuffled order and each followed by the end-of-text token, form one long token stream.
Sequence k is the stream's tokens [k * length, (k + 1) * length); shard j holds `sequences_per_shard` sequences. Nothing
depends on where one cell, task or worker ends, so every shard but a source's last is full.

    stream  |doc a....E|doc b..E|doc c..............E|doc d.E E E|      E: end-of-text, the last ones padding
    rows    |row 0     |row 1     |row 2     |row 3             |
    shards  |shard 0              |shard 1                      |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.unsignedinteger[Any]]
"""Token ids, uint16 or uint32."""
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class ShardSpan:
    """One shard's part of its source's token stream."""

    number: int
    first_token: int
    end_token: int
    """Behind the last real token; what the shard's last sequence lacks is padding."""
    num_sequences: int


@dataclass(frozen=True, kw_only=True)
class DocumentParts:
    """What of each document lies in one shard; one entry a document, in order of position."""

    index: Int64s
    """Which of the given documents."""
    row: Int64s
    """Sequence of the shard that holds the part's first token."""
    first_token: Int64s
    """Place of that token in its sequence."""
    length: Int64s
    """Tokens of the document in this shard, end-of-text included and padding not."""


def shuffled(keys: UInt64s, content_high: UInt64s, content_low: UInt64s) -> Int64s:
    """The permutation that sorts documents by shuffle key; equal keys (equal ids) go by content, so it is total."""
    return np.lexsort((content_low, content_high, keys)).astype(np.int64)


def cell_of(keys: UInt64s, num_cells: int) -> Int64s:
    """Cell of each key: equal slices of the key's range, in order, so sorted cells one after another are sorted.

    Only the top 32 bits decide, which keeps `key * num_cells` inside 64 bits. Cells bound memory and shape no byte.
    """
    assert 1 <= num_cells < 2**31
    return (((keys >> np.uint64(32)) * np.uint64(num_cells)) >> np.uint64(32)).astype(np.int64)


def cell_start(cell: int, num_cells: int) -> int:
    """The smallest key of a cell; 2**64 for the cell behind the last."""
    return -(-cell * 2**32 // num_cells) << 32


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


def cells_of_span(span: ShardSpan, cell_tokens: Sequence[int]) -> range:
    """The cells whose tokens the span needs, given the number of tokens in each cell of its source."""
    starts = np.concatenate([[0], np.cumsum(np.asarray(cell_tokens, dtype=np.int64))])
    first = int(np.searchsorted(starts, span.first_token, side="right")) - 1
    end = int(np.searchsorted(starts, span.end_token, side="left"))
    return range(first, end)


def parts_in_span(starts: Int64s, ends: Int64s, span: ShardSpan, sequence_length: int) -> DocumentParts:
    """Which parts of documents at stream positions [start, end), given in order, lie in the span."""
    first = int(np.searchsorted(ends, span.first_token, side="right"))
    last = int(np.searchsorted(starts, span.end_token, side="left"))
    part_starts = np.maximum(starts[first:last], span.first_token) - span.first_token
    part_ends = np.minimum(ends[first:last], span.end_token) - span.first_token
    return DocumentParts(
        index=np.arange(first, last, dtype=np.int64),
        row=part_starts // sequence_length,
        first_token=part_starts % sequence_length,
        length=part_ends - part_starts,
    )


def with_end_of_text(tokens: Tokens, lengths: Int64s, end_of_text_id: int) -> Tokens:
    """Puts the end-of-text token behind each of the concatenated documents; `lengths` are without it."""
    ends = np.cumsum(lengths)
    out = np.empty(len(tokens) + len(lengths), dtype=tokens.dtype)
    is_end = np.zeros(len(out), dtype=bool)
    is_end[ends + np.arange(len(lengths))] = True
    out[is_end] = end_of_text_id
    out[~is_end] = tokens
    return out


def rows(tokens: Tokens, sequence_length: int, end_of_text_id: int) -> Tokens:
    """(tokens) -> (sequences, sequence_length); the last sequence is filled up with end-of-text."""
    padding = -len(tokens) % sequence_length
    padded = np.pad(tokens, (0, padding), constant_values=end_of_text_id) if padding else tokens
    return padded.reshape(len(padded) // sequence_length, sequence_length)
