"""Best-fit packing against the plainest way to do it, and what it promises of documents, rows and waste."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.best_fit import best_fit, spread

lengths_of_documents = st.lists(st.integers(1, 40), max_size=60)
Piece = tuple[int, int, int]
"""Document, its first token in the piece, tokens."""


def packed(lengths: list[int], length: int) -> list[list[Piece]]:
    """The rows that `best_fit` makes."""
    pieces, count = best_fit(np.array(lengths, dtype=np.int64), length)
    assert count % length == 0
    rows: list[list[Piece]] = [[] for _ in range(count // length)]
    for document, offset, start, many in zip(*(one.tolist() for one in vars(pieces).values()), strict=True):
        row = rows[start // length]
        assert start % length == tokens(row), "pieces lie side by side from a row's begin"
        row.append((document, offset, many))
    return rows


def plainly(lengths: list[int], length: int) -> list[list[Piece]]:
    """The same by lists: each rest, longest first, into the fullest row with room; of equals, that touched last."""
    bins: list[list[Piece]] = []  # the one touched last at the end
    rests = [(document, many % length) for document, many in enumerate(lengths) if many % length]
    for document, rest in sorted(rests, key=lambda one: -one[1]):
        chosen: list[Piece] = []
        for one in bins:
            if tokens(chosen) <= tokens(one) <= length - rest:
                chosen = one
        bins = [one for one in bins if one is not chosen]
        bins.append([*chosen, (document, lengths[document] - rest, rest)])
    whole = [[(document, at * length, length)] for document, many in enumerate(lengths) for at in range(many // length)]
    return [sorted(row) for row in bins + whole]


def tokens(row: list[Piece]) -> int:
    return sum(many for _, _, many in row)


@given(lengths_of_documents, st.integers(1, 17))
def test_a_document_is_cut_only_if_it_is_longer_than_a_row(lengths: list[int], length: int) -> None:
    pieces_of: dict[int, list[tuple[int, int]]] = {}
    for row in packed(lengths, length):
        assert tokens(row) <= length
        for document, offset, many in row:
            pieces_of.setdefault(document, []).append((offset, many))
    assert sorted(pieces_of) == list(range(len(lengths)))
    for document, pieces in pieces_of.items():
        all_tokens = [token for offset, many in sorted(pieces) for token in range(offset, offset + many)]
        assert all_tokens == list(range(lengths[document])), "every token once"
        assert len(pieces) == -(-lengths[document] // length), "no more pieces than it takes"


@given(lengths_of_documents, st.integers(1, 17))
def test_rows_are_those_of_the_plain_way(lengths: list[int], length: int) -> None:
    rows = packed(lengths, length)
    assert sorted(rows) == sorted(plainly(lengths, length))
    assert all(row == sorted(row) for row in rows)


@pytest.mark.parametrize("length", [256, 2048, 8192])
def test_less_is_wasted_than_by_first_fit(length: int) -> None:
    for seed in range(5):
        generator = np.random.default_rng(seed)
        lengths = np.maximum(1, generator.lognormal(6, 1.2, 600)).astype(np.int64)
        rows: list[int] = []
        for rest in (lengths % length)[lengths % length > 0].tolist():
            place = next((at for at, used in enumerate(rows) if used + rest <= length), len(rows))
            rows[place : place + 1] = [(rows[place] if place < len(rows) else 0) + rest]
        _, count = best_fit(lengths, length)
        assert count // length <= len(rows) + (lengths // length).sum()
        assert count // length >= -(-lengths.sum() // length)


@pytest.mark.parametrize("longest", [2_000, 100_000])
def test_the_order_of_rows_shows_no_lengths(longest: int) -> None:
    """Packed longest first, but not trained on in that order."""
    lengths = np.maximum(1, np.random.default_rng(0).lognormal(6, 1.2, 5_000)).astype(np.int64)
    rows = packed(np.minimum(lengths, longest).tolist(), 2048)
    for figure in (lambda row: max(many for _, _, many in row), len, lambda row: lengths[row[0][0]]):
        figures = np.array([figure(row) for row in rows], dtype=float)
        assert abs(np.corrcoef(np.arange(len(rows)), figures)[0, 1]) < 0.05


@given(st.integers(0, 300))
def test_spread_is_a_permutation(count: int) -> None:
    assert sorted(spread(count).tolist()) == list(range(count))
