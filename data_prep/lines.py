"""Lines that a source repeats: menus, banners and licences that stand in a thousand documents.

    line_hashes  ->  bucketed by hash over all parts of a source  ->  repeated_lines  ->  without_lines

CCNet (https://arxiv.org/abs/1911.00359) takes out repeated paragraphs, RefinedWeb (https://arxiv.org/abs/2306.01116)
repeated spans. CCNet compares without case, digits and punctuation; here lines must be equal but for white space at
their ends, so no line is lost that is not kept elsewhere. Short lines ("return x", "Yes.") repeat honestly, hence the
least length.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.native import kernel
from data_prep.shingles import FNV_BASIS, FNV_PRIME, Uint64s
from data_prep.texts import Bytes, Int64s, Texts

Int32s = npt.NDArray[np.int32]

NEWLINE = 0x0A


@dataclass(frozen=True, slots=True)
class Lines:
    """Some lines of some texts; columns of equal length, sorted by document and line."""

    hashes: Uint64s
    documents: Int64s
    lines: Int32s
    """The line's number in its document, from 0."""


def line_hashes(texts: Texts, min_characters: int) -> Lines:
    """The lines that have at least so many characters without the ASCII white space at their ends (at least one)."""
    most = int(np.count_nonzero(texts.data == NEWLINE)) + len(texts)
    hashes, documents = np.empty(most, dtype=np.uint64), np.empty(most, dtype=np.int64)
    lines = np.empty(most, dtype=np.int32)
    count = _hash_lines(texts.data, texts.offsets, max(1, min_characters), hashes, documents, lines)
    return Lines(hashes[:count], documents[:count], lines[:count])


def repeated_lines(hashes: Uint64s, places: Int64s, lines: Int32s) -> npt.NDArray[np.bool_]:
    """Which entries of a bucket of hashes are to be taken out: all of a hash but the first line in the first document.

    `places` are the documents' places in the corpus.
    """
    order = np.lexsort((lines, places, hashes))
    again = order[1:][hashes[order][1:] == hashes[order][:-1]]
    taken_out = np.zeros(len(hashes), dtype=np.bool_)
    taken_out[again] = True
    return taken_out


def without_lines(texts: Texts, documents: Int64s, lines: Int32s) -> Texts:
    """The texts without these lines (sorted by document and line, each once). A text may have nothing left."""
    data, offsets = np.empty(len(texts.data), dtype=np.uint8), np.zeros(len(texts) + 1, dtype=np.int64)
    met = _copy_others(texts.data, texts.offsets, documents, lines, data, offsets)
    assert met == len(lines), "a line to be taken out is not there, or the lines are not sorted"
    return Texts(data[: offsets[-1]], offsets)


@kernel
def _line_end(data: Bytes, at: int, end: int) -> int:
    while at < end and data[at] != NEWLINE:
        at += 1
    return at


@kernel
def _is_white(byte: int) -> bool:
    return byte == 0x20 or 0x09 <= byte <= 0x0D


@kernel
def _hash_lines(
    data: Bytes, offsets: Int64s, min_characters: int, hashes: Uint64s, documents: Int64s, lines: Int32s
) -> int:
    count = 0
    for document in range(len(offsets) - 1):
        at, end, line = offsets[document], offsets[document + 1], 0
        while at < end:
            stop = _line_end(data, at, end)
            first, last = at, stop
            while first < last and _is_white(data[first]):
                first += 1
            while first < last and _is_white(data[last - 1]):
                last -= 1
            characters = 0
            for place in range(first, last):
                characters += (data[place] & 0xC0) != 0x80
            if characters >= min_characters:
                value = FNV_BASIS
                for place in range(first, last):
                    value = (value ^ np.uint64(data[place])) * FNV_PRIME
                hashes[count] = value ^ (value >> np.uint64(32))
                documents[count], lines[count] = document, line
                count += 1
            at, line = stop + 1, line + 1
    return count


@kernel
def _copy_others(data: Bytes, offsets: Int64s, documents: Int64s, lines: Int32s, copied: Bytes, bounds: Int64s) -> int:
    """Joins what is left by newlines; says how many of the lines were met."""
    size = met = 0
    for document in range(len(offsets) - 1):
        at, end, line = offsets[document], offsets[document + 1], 0
        more, joined = True, False
        while more:
            stop = _line_end(data, at, end)
            if met < len(lines) and documents[met] == document and lines[met] == line:
                met += 1
            else:
                if joined:
                    copied[size] = NEWLINE
                    size += 1
                for place in range(at, stop):
                    copied[size] = data[place]
                    size += 1
                joined = True
            more = stop < end
            at, line = stop + 1, line + 1
        bounds[document + 1] = size
    return met
