"""Packing is arithmetic: every function is held against the plainest way to say the same."""

from itertools import accumulate

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.pack import (
    PACKINGS,
    Pieces,
    ShardSpan,
    cell_of,
    cells_of_span,
    clipped,
    cut_documents,
    lay_out,
    shard_spans,
    shuffled,
    starts_of,
)

END = 0
lengths_of_documents = st.lists(st.integers(1, 60), max_size=30)
keys = st.lists(st.integers(0, 2**64 - 1), max_size=50)


def columns(pieces: Pieces) -> list[tuple[int, int, int, int]]:
    """(document, offset, start, length) of each piece."""
    return list(zip(*(column.tolist() for column in vars(pieces).values()), strict=True))


def stream_of(pieces: Pieces, count: int) -> list[tuple[int, int] | None]:
    """A stream of (document, token), with None for padding."""
    stream: list[tuple[int, int] | None] = [None] * count
    for document, offset, start, length in columns(pieces):
        assert stream[start : start + length] == [None] * length
        stream[start : start + length] = [(document, offset + at) for at in range(length)]
    return stream


@given(st.integers(0, 5_000), st.integers(1, 50), st.integers(1, 9))
def test_shards_cut_the_stream_without_gap_and_only_the_last_is_short(tokens: int, length: int, per_shard: int) -> None:
    spans = shard_spans(tokens, length, per_shard)
    assert [span.number for span in spans] == list(range(len(spans)))
    assert [token for span in spans for token in range(span.first_token, span.end_token)] == list(range(tokens))
    assert all(span.num_sequences == per_shard for span in spans[:-1])
    assert sum(span.num_sequences for span in spans) == -(-tokens // length)


@given(lengths_of_documents, st.integers(1, 17), st.integers(1, 5), st.sampled_from(PACKINGS))
def test_shards_hold_each_token_once_at_the_place_they_say(lengths: list[int], length: int, per: int, how: str) -> None:
    """Token t of document d is (d, t); shards are cut out of the stream, and their pieces lead back to it."""
    pieces, count = lay_out(np.array(lengths, dtype=np.int64), length, how)
    stream = stream_of(pieces, count)
    found: list[tuple[int, int]] = []
    for span in shard_spans(count, length, per):
        here = clipped(pieces, span.first_token, span.end_token)
        assert (np.diff(here.start) > 0).all()
        assert (here.length > 0).all()
        for document, offset, start, many in columns(here):
            first = span.first_token + start
            assert stream[first : first + many] == [(document, offset + at) for at in range(many)]
            found += stream[first : first + many]
    assert sorted(found) == [(document, token) for document, many in enumerate(lengths) for token in range(many)]


@given(lengths_of_documents, st.integers(1, 17), st.sampled_from(PACKINGS))
def test_cut_documents_are_those_in_several_rows(lengths: list[int], length: int, how: str) -> None:
    array = np.array(lengths, dtype=np.int64)
    pieces, count = lay_out(array, length, how)
    rows_of: dict[int, set[int]] = {}
    for place, token in enumerate(stream_of(pieces, count)):
        if token is not None:
            rows_of.setdefault(token[0], set()).add(place // length)
    expected = sum(len(some) > 1 for some in rows_of.values())
    assert cut_documents(pieces, array, length) == expected
    by_shard = [clipped(pieces, span.first_token, span.end_token) for span in shard_spans(count, length, 2)]
    assert sum(cut_documents(some, array, length) for some in by_shard) == expected


@given(keys, st.integers(1, 1_000))
def test_cells_cut_the_keys_in_order(some: list[int], cells: int) -> None:
    found = cell_of(np.array(sorted(some), dtype=np.uint64), cells).tolist()
    assert found == sorted(found)
    for key, cell in zip(sorted(some), found, strict=True):
        assert cell == (key >> 32) * cells // 2**32, "of equal slices, the one that holds the key"


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.data())
def test_a_span_needs_the_cells_it_overlaps(cell_tokens: list[int], data: st.DataObject) -> None:
    total = sum(cell_tokens)
    if not total:
        return
    first = data.draw(st.integers(0, total - 1))
    end = data.draw(st.integers(first + 1, total))
    span = ShardSpan(number=0, first_token=first, end_token=end, num_sequences=1)
    ends = list(accumulate(cell_tokens))
    needed = {
        cell
        for cell, (stop, count) in enumerate(zip(ends, cell_tokens, strict=True))
        if count and stop - count < end and stop > first
    }
    chosen = set(cells_of_span(span, starts_of(cell_tokens)))
    assert needed <= chosen
    assert all(cell_tokens[cell] == 0 for cell in chosen - needed)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1), st.integers(0, 3)), max_size=40))
def test_shuffled_order_does_not_depend_on_the_order_given(entries: list[tuple[int, int, int]]) -> None:
    def in_order(some: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
        columns = [np.array([entry[i] for entry in some], dtype=np.uint64) for i in range(3)]
        return [some[i] for i in shuffled(*columns)]

    assert in_order(entries) == in_order(entries[::-1]) == sorted(entries)
