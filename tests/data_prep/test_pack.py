"""Packing is arithmetic: every function is held against the plainest way to say the same."""

from itertools import accumulate

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.pack import (
    ShardSpan,
    cell_of,
    cell_start,
    cells_of_span,
    parts_in_span,
    rows,
    shard_spans,
    shuffled,
    with_end_of_text,
)

END = 0
documents_of_tokens = st.lists(st.lists(st.integers(1, 65_535), max_size=40), min_size=1, max_size=30)
keys = st.lists(st.integers(0, 2**64 - 1), max_size=50)


def plain_stream(documents: list[list[int]]) -> list[int]:
    return [token for document in documents for token in [*document, END]]


@given(documents_of_tokens)
def test_each_document_is_followed_by_the_end_of_text(documents: list[list[int]]) -> None:
    flat = np.array([token for document in documents for token in document], dtype=np.uint16)
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    assert with_end_of_text(flat, lengths, END).tolist() == plain_stream(documents)


@given(documents_of_tokens, st.integers(1, 17))
def test_rows_hold_the_stream_and_end_in_padding(documents: list[list[int]], length: int) -> None:
    stream = plain_stream(documents)
    packed = rows(np.array(stream, dtype=np.uint16), length, END)
    flat = packed.ravel().tolist()
    assert packed.shape[1] == length
    assert flat[: len(stream)] == stream
    assert len(flat) - len(stream) < length
    assert set(flat[len(stream) :]) <= {END}


@given(st.integers(0, 5_000), st.integers(1, 50), st.integers(1, 9))
def test_shards_cut_the_stream_without_gap_and_only_the_last_is_short(tokens: int, length: int, per_shard: int) -> None:
    spans = shard_spans(tokens, length, per_shard)
    assert [span.number for span in spans] == list(range(len(spans)))
    assert [token for span in spans for token in range(span.first_token, span.end_token)] == list(range(tokens))
    assert all(span.num_sequences == per_shard for span in spans[:-1])
    assert sum(span.num_sequences for span in spans) == -(-tokens // length)


@given(documents_of_tokens, st.integers(1, 17), st.integers(1, 5))
def test_the_parts_of_a_span_say_where_each_document_lies(documents: list[list[int]], length: int, per: int) -> None:
    ends = np.array(list(accumulate(len(document) + 1 for document in documents)), dtype=np.int64)
    starts = ends - [len(document) + 1 for document in documents]
    found: dict[int, list[int]] = {i: [] for i in range(len(documents))}
    stream = plain_stream(documents)
    for span in shard_spans(len(stream), length, per):
        table = rows(np.array(stream[span.first_token : span.end_token], dtype=np.uint16), length, END).ravel()
        parts = parts_in_span(starts, ends, span, length)
        assert (np.diff(parts.row * length + parts.first_token) > 0).all()
        for index, row, first, count in zip(parts.index, parts.row, parts.first_token, parts.length, strict=True):
            assert count > 0
            assert first < length
            begin = row * length + first
            found[int(index)] += table[begin : begin + count].tolist()
    assert found == {i: [*document, END] for i, document in enumerate(documents)}


@given(keys, st.integers(1, 1_000))
def test_cells_cut_the_keys_in_order(some: list[int], cells: int) -> None:
    array = np.array(some, dtype=np.uint64)
    for key, cell in zip(some, cell_of(array, cells).tolist(), strict=True):
        assert 0 <= cell < cells
        assert cell_start(cell, cells) <= key < cell_start(cell + 1, cells)


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
    chosen = set(cells_of_span(span, cell_tokens))
    assert needed <= chosen
    assert all(cell_tokens[cell] == 0 for cell in chosen - needed)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1), st.integers(0, 3)), max_size=40))
def test_shuffled_order_does_not_depend_on_the_order_given(entries: list[tuple[int, int, int]]) -> None:
    def in_order(some: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
        columns = [np.array([entry[i] for entry in some], dtype=np.uint64) for i in range(3)]
        return [some[i] for i in shuffled(*columns)]

    assert in_order(entries) == in_order(entries[::-1]) == sorted(entries)
