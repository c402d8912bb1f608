"""Lines and paragraphs: how many there are, how they begin and end, which of them were there before.

A line ends at a newline; blank ones do not count. A paragraph is a run of lines without an empty one among them.
"""

import numpy as np
import numpy.typing as npt

from data_prep.filters.blocks import count_bits, hash_of
from data_prep.filters.bounds import line_end, stripped
from data_prep.filters.characters import CONTINUATION_BIT
from data_prep.native import kernel
from data_prep.texts import Bytes, Int64s

Uint64s = npt.NDArray[np.uint64]

LINE_SCORES = (
    "num_lines",
    "bullet_lines",
    "ellipsis_lines",
    "punctuated_lines",
    "duplicate_lines",
    "duplicate_line_characters",
    "num_paragraphs",
    "duplicate_paragraphs",
    "duplicate_paragraph_characters",
)
BULLETS = np.array([int.from_bytes(mark.encode(), "big") for mark in "•-*"])
LINE_ENDS = np.array([int.from_bytes(mark.encode(), "big") for mark in ".!?\"'”’…。！？"])
"""Each as the number that its bytes make: one byte or three."""
ELLIPSES = np.array([int.from_bytes(mark.encode(), "big") for mark in ("...", "…")])
GOLDEN, HALF_WORD = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)
"""2**64 over the golden ratio; odd, so that no bit of what it multiplies is lost."""


@kernel
def line_scores(data: Bytes, kinds: Bytes, offsets: Int64s) -> Int64s:
    """`LINE_SCORES`, a row each. Data and kinds are padded."""
    scores = np.zeros((9, len(offsets) - 1), dtype=np.int64)
    most = 1
    for text in range(len(offsets) - 1):
        most = max(most, offsets[text + 1] - offsets[text] + 1)
    keys, lengths = np.empty(most, dtype=np.uint64), np.empty(most, dtype=np.int64)
    paragraph_keys, paragraph_lengths = np.empty(most, dtype=np.uint64), np.empty(most, dtype=np.int64)
    for text in range(len(offsets) - 1):
        at, stop = offsets[text], offsets[text + 1]
        lines = bullets = ellipses = punctuated = paragraphs = 0
        inside = False
        while at <= stop:
            start, at = at, line_end(data, at, stop)
            first, last = stripped(kinds, start, at)
            key, length = hash_of(data, start, at), at - start - count_bits(kinds, start, at, CONTINUATION_BIT)
            if at == start:
                inside = False
            elif inside:
                paragraph_keys[paragraphs - 1] = paragraph_keys[paragraphs - 1] * GOLDEN + key
                paragraph_lengths[paragraphs - 1] += length + 1
            else:
                paragraph_keys[paragraphs], paragraph_lengths[paragraphs] = key, length
                paragraphs += 1
                inside = True
            if first < last:
                keys[lines], lengths[lines] = key, length
                lines += 1
                bullets += starts_with(data, first, last, BULLETS)
                ellipses += ends_with(data, start, last, ELLIPSES)
                punctuated += ends_with(data, start, at, LINE_ENDS)
            at += 1
        scores[0, text], scores[1, text], scores[2, text], scores[3, text] = lines, bullets, ellipses, punctuated
        scores[4, text], scores[5, text] = repeats(keys[:lines], lengths)
        scores[6, text] = paragraphs
        scores[7, text], scores[8, text] = repeats(paragraph_keys[:paragraphs], paragraph_lengths)
    return scores


@kernel
def starts_with(data: Bytes, start: int, stop: int, marks: Int64s) -> bool:
    return is_one_of(marks, number_of(data, start, start + 1), number_of(data, start, min(start + 3, stop)))


@kernel
def ends_with(data: Bytes, start: int, stop: int, marks: Int64s) -> bool:
    return is_one_of(marks, number_of(data, stop - 1, stop), number_of(data, max(stop - 3, start), stop))


@kernel
def is_one_of(marks: Int64s, one_byte: int, three_bytes: int) -> bool:
    found = False
    for mark in marks:
        found |= mark in (one_byte, three_bytes)
    return found


@kernel
def number_of(data: Bytes, start: int, stop: int) -> int:
    number = 0
    for at in range(start, stop):
        number = number << 8 | data[at]
    return number


@kernel
def repeats(keys: Uint64s, lengths: Int64s) -> tuple[int, int]:
    """(pieces, their characters) that were there before: the first of equal ones does not count."""
    size = 4
    while size < 2 * len(keys):
        size *= 2
    slots = np.full(size, -1, dtype=np.int32)
    count = characters = 0
    for place in range(len(keys)):
        slot = np.int64(keys[place] * GOLDEN >> HALF_WORD) & size - 1
        while slots[slot] >= 0 and keys[slots[slot]] != keys[place]:
            slot = slot + 1 & size - 1
        if slots[slot] < 0:
            slots[slot] = place
        else:
            count, characters = count + 1, characters + lengths[place]
    return count, characters


@kernel
def short_line_scores(data: Bytes, kinds: Bytes, offsets: Int64s, short_line_length: int) -> Int64s:
    """Lines of at most so many characters, blank ones not counted. Data and kinds are padded."""
    scores = np.zeros(len(offsets) - 1, dtype=np.int64)
    for text in range(len(offsets) - 1):
        at, stop = offsets[text], offsets[text + 1]
        while at < stop:
            start, at = at, line_end(data, at, stop)
            first, last = stripped(kinds, start, at)
            length = at - start - count_bits(kinds, start, at, CONTINUATION_BIT)
            scores[text] += first < last and length <= short_line_length
            at += 1
    return scores
