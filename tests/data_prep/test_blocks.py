"""Blocks of bytes against one byte after another, at every place of a block."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.filters.blocks import below, bits, count_bits, hash_of, padded, trailing_zeros, word_at
from data_prep.filters.bounds import line_end, num_words, stripped, word_bounds
from data_prep.filters.characters import CONTINUATION, CONTINUATION_BIT, marked
from data_prep.texts import Bytes, texts_of

runs = st.lists(st.tuples(st.sampled_from(["a", "é", " ", "\n", "\u3000"]), st.integers(1, 70)), max_size=8)
longer = runs.map(lambda some: "".join(one * times for one, times in some).encode())
cut = st.tuples(longer, longer, longer)
"""A text with others before and behind it, which it must not see."""


def placed(around: tuple[bytes, bytes, bytes]) -> tuple[Bytes, Bytes, int, int]:
    """(bytes, kinds, where the middle text begins, where it ends)."""
    marks = marked(texts_of(list(around)))
    return marks.data, marks.kinds, int(marks.offsets[1]), int(marks.offsets[2])


@given(cut)
def test_words_are_where_split_finds_them(around: tuple[bytes, bytes, bytes]) -> None:
    _, kinds, start, end = placed(around)
    text = around[1].decode()
    at = [len(text[:place].encode()) for place in range(len(text) + 1)]
    expected = [(start + at[word.start()], start + at[word.end()]) for word in re.finditer(r"\S+", text)]
    bounds = np.empty(2 * len(expected) + 2, dtype=np.int64)
    count = word_bounds(kinds, start, end, bounds)
    assert bounds[: 2 * count].reshape(-1, 2).tolist() == [list(word) for word in expected]
    assert num_words(kinds, start, end) == len(expected) == len(text.split())


@given(cut)
def test_lines_end_at_the_next_newline_or_where_the_text_does(around: tuple[bytes, bytes, bytes]) -> None:
    data, kinds, start, end = placed(around)
    ends, at = [], start
    while at <= end:
        at = line_end(data, at, end)
        ends.append(at - start)
        at += 1
    lines = around[1].split(b"\n")
    assert ends == (np.cumsum([len(line) + 1 for line in lines]) - 1).tolist()
    first, last = stripped(kinds, start, end)
    text = around[1].decode()
    assert around[1][first - start : last - start] == text.strip().encode()


@given(cut)
def test_bits_are_counted_in_a_text_alone(around: tuple[bytes, bytes, bytes]) -> None:
    _, kinds, start, end = placed(around)
    assert count_bits(kinds, start, end, CONTINUATION_BIT) == len(around[1]) - len(around[1].decode())
    block = kinds[start : start + 64] & CONTINUATION != 0
    assert bits(kinds, start, CONTINUATION_BIT) == sum(1 << place for place in np.flatnonzero(block).tolist())


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=9), st.binary(max_size=9))
def test_a_hash_sees_all_of_its_bytes_and_no_others(one: bytes, other: bytes, before: bytes, behind: bytes) -> None:
    def hashed(text: bytes, before: bytes = b"", behind: bytes = b"") -> int:
        data = padded(np.frombuffer(before + text + behind, dtype=np.uint8))
        return int(hash_of(data, len(before), len(before) + len(text)))

    assert hashed(one, before, behind) == hashed(one)
    assert (hashed(one) == hashed(other)) == (one == other)
    for place in range(len(one)):
        assert hashed(one[:place] + bytes([one[place] ^ 1]) + one[place + 1 :]) != hashed(one)


def test_numbers_of_bits() -> None:
    assert [int(below(count)) for count in (0, 1, 8, 63, 64)] == [0, 1, 255, 2**63 - 1, 2**64 - 1]
    assert padded(np.ones(3, dtype=np.uint8)).tolist() == [1] * 3 + [0] * 64


def test_eight_bytes_are_read_wherever_they_begin() -> None:
    from data_prep.native import kernel

    @kernel
    def read(data: Bytes, at: int) -> tuple[object, int]:
        return word_at(data, at), trailing_zeros(word_at(data, at))

    data = np.arange(16, dtype=np.uint8)
    assert read(data, 3) == (int.from_bytes(bytes(range(3, 11)), "little"), 0)
    assert read(np.zeros(9, dtype=np.uint8), 1) == (0, 64)
