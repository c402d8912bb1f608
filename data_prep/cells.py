"""Encoded parts, and the way to one cell of them: whatever the number and size of parts, a reader holds one cell.

A part's documents are sorted by shuffle key, so those of a cell lie together in each of its files:

    index    |cell 0  |cell 1 |...|             INDEX, a row a document, and one behind the last
    tokens   |cell 0        |cell 1   |...      end of text behind each document
    ids      |cell 0    |cell 1 |...            UTF-8, one behind the other

All are raw arrays, as a few rows out of the middle are wanted of each: to open an Arrow file or a .npy took ten times
as long as to read them. A cell is found by binary search in the index. Many parts are merged into longer ones, a
stretch of cells at a time; the documents of a cell come out in the same order.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.native import kernel
from data_prep.pack import Int64s, Pieces, Tokens, cell_start, shuffled
from data_prep.texts import Texts, texts_from_arrow, texts_to_arrow
from data_prep.tokenizer import TokenizerFacts
from data_prep.work import Work

INDEX = np.dtype([("shuffle", "<u8"), ("high", "<u8"), ("low", "<u8"), ("token", "<i8"), ("id_byte", "<i8")])
"""A document: the keys that it is sorted by, and where it begins in the other files."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where some neighbouring cells of a source lie."""

    cells: range
    parts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MergeRecord:
    num_documents: int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The documents of neighbouring cells over all parts, in shuffled order."""

    keys: npt.NDArray[np.void]
    """`shuffle`, `high` and `low` of each."""
    ids: pa.Array
    tokens: Tokens
    """As they lie in the parts, one part behind the other."""
    starts: Int64s
    """Where among them each document begins."""
    lengths: Int64s
    """End-of-text included."""


def save_part(work: Work, name: str, keys: npt.NDArray[np.void], lengths: Int64s, tokens: Tokens, ids: Texts) -> None:
    """Writes encoded documents, a row each in `keys`, `lengths` and `ids`.

    They are sorted by the fields `shuffle`, `high` and `low` of `keys`; `tokens` (`lengths.sum()`) have their ends of
    text.
    """
    index = np.zeros(len(keys) + 1, dtype=INDEX)
    for field in ("shuffle", "high", "low"):
        index[field][:-1] = keys[field]
    index["shuffle"][-1] = 2**64 - 1
    index["token"][1:], index["id_byte"] = np.cumsum(lengths), ids.offsets
    work.save_raw(name, "tokens", tokens)
    work.save_raw(name, "ids", ids.data)
    work.save_raw(name, "index", index)


def split(num_cells: int, num_runs: int) -> list[range]:
    """The cells in at most so many stretches of about equal length."""
    bounds = sorted({num_cells * run // num_runs for run in range(num_runs + 1)})
    return [range(first, end) for first, end in pairwise(bounds)]


def parts_of(runs: Iterable[Run], cells: range) -> tuple[str, ...]:
    """The parts that may hold documents of the cells."""
    return tuple(
        part for run in runs if run.cells.start < cells.stop and cells.start < run.cells.stop for part in run.parts
    )


def merge_parts(
    work: Work, name: str, cells: range, num_cells: int, parts: Sequence[str], facts: TokenizerFacts
) -> MergeRecord:
    """Writes what the parts have of the cells as one part."""
    merged = read_cells(work, parts, cells, num_cells, facts)
    whole = Pieces(
        document=np.arange(len(merged.lengths)),
        offset=np.zeros(len(merged.lengths), dtype=np.int64),
        start=np.cumsum(merged.lengths) - merged.lengths,
        length=merged.lengths,
    )
    tokens = gathered(merged, whole, len(merged.tokens), facts.end_of_text_id)
    save_part(work, name, merged.keys, merged.lengths, tokens, texts_from_arrow(merged.ids))
    return work.save_record(name, MergeRecord(num_documents=len(merged.lengths)))


def cell_lengths(work: Work, parts: Sequence[str], cell: int, num_cells: int) -> Int64s:
    """Tokens of each document of a cell, in shuffled order. Reads the index only."""
    stretches = _stretches(work, parts, range(cell, cell + 1), num_cells)
    return _lengths(stretches, "token")[_order(_keys(stretches))]


def num_tokens_of(work: Work, parts: Sequence[str], cell: int, num_cells: int) -> int:
    """Tokens of the documents of a cell."""
    stretches = _stretches(work, parts, range(cell, cell + 1), num_cells)
    return sum(int(index["token"][-1] - index["token"][0]) for _, index in stretches)


def read_cells(work: Work, parts: Sequence[str], cells: range, num_cells: int, facts: TokenizerFacts) -> Cell:
    """The documents of neighbouring cells."""
    stretches = _stretches(work, parts, cells, num_cells)
    keys, lengths = _keys(stretches), _lengths(stretches, "token")
    id_offsets = np.concatenate([[0], np.cumsum(_lengths(stretches, "id_byte"))])
    ids = Texts(_joined(work, stretches, "ids", "id_byte", np.uint8), id_offsets)
    order = _order(keys)
    return Cell(
        keys=keys[order],
        ids=texts_to_arrow(ids).take(pa.array(order)),
        tokens=_joined(work, stretches, "tokens", "token", facts.token_dtype),
        starts=(np.cumsum(lengths) - lengths)[order],
        lengths=lengths[order],
    )


def gathered(cell: Cell, pieces: Pieces, num_tokens: int, end_of_text_id: int) -> Tokens:
    """(num_tokens) of a stream: the pieces' tokens in their places, and end of text where there is none."""
    out = np.full(num_tokens, end_of_text_id, dtype=cell.tokens.dtype)
    copy_runs(cell.tokens, cell.starts[pieces.document] + pieces.offset, pieces.length, out, pieces.start)
    return out


@kernel
def copy_runs(source: Tokens, starts: Int64s, lengths: Int64s, out: Tokens, places: Int64s) -> None:
    """Copies runs of `source` that begin at `starts` to `places` in `out`."""
    for run in range(len(starts)):
        out[places[run] : places[run] + lengths[run]] = source[starts[run] : starts[run] + lengths[run]]


Stretch = tuple[str, npt.NDArray[np.void]]
"""A part and its index of some neighbouring documents, and of one behind them, where they end."""


def _stretches(work: Work, parts: Sequence[str], cells: range, num_cells: int) -> list[Stretch]:
    """Where the documents of the cells lie in each part that has some."""
    first_key, end_key = cell_start(cells.start, num_cells), cell_start(cells.stop, num_cells)
    found = []
    for part in parts:
        index = _index(f"{work.root}/{part}.index")
        key_of = index["shuffle"].item
        first = bisect_left(range(len(index) - 1), first_key, key=key_of)
        end = bisect_left(range(len(index) - 1), end_key, lo=first, key=key_of)
        if first < end:
            found.append((part, np.array(index[first : end + 1])))
    return found


@lru_cache(maxsize=1024)
def _index(path: str) -> npt.NDArray[np.void]:
    """A part's index, mapped. Its name says what it holds, so it is worth keeping from cell to cell."""
    return np.asarray(np.memmap(path, dtype=INDEX, mode="r"))


def _keys(stretches: Sequence[Stretch]) -> npt.NDArray[np.void]:
    return np.concatenate([np.zeros(0, dtype=INDEX), *(index[:-1] for _, index in stretches)])


def _lengths(stretches: Sequence[Stretch], field: str) -> Int64s:
    return np.concatenate([np.zeros(0, dtype=np.int64), *(np.diff(index[field]) for _, index in stretches)])


def _order(keys: npt.NDArray[np.void]) -> Int64s:
    return shuffled(keys["shuffle"], keys["high"], keys["low"])


def _joined(
    work: Work, stretches: Sequence[Stretch], suffix: str, field: str, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """What the stretches have in one of their parts' files, one behind the other."""
    counts = [int(index[field][-1] - index[field][0]) for _, index in stretches]
    out, at = np.empty(sum(counts), dtype=dtype), 0
    for (part, index), count in zip(stretches, counts, strict=True):
        work.read_raw(part, suffix, out[at : at + count], int(index[field][0]))
        at += count
    return out
