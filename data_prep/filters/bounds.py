"""Where words and lines begin and end, in padded texts: a block of bytes at a time."""

import numpy as np

from data_prep.filters.blocks import BLOCK, LOWEST_BITS, ONE, below, bits, ones, trailing_zeros, word_at, zero_bytes
from data_prep.filters.characters import SPACE
from data_prep.native import kernel
from data_prep.texts import Bytes, Int64s

SPACE_BIT = SPACE.bit_length() - 1
NEWLINES = np.uint64(ord("\n")) * LOWEST_BITS
HIGHEST = np.uint64(BLOCK - 1)


@kernel
def word_bounds(kinds: Bytes, start: int, end: int, bounds: Int64s) -> int:
    """Where words begin and end, in turn, in these bytes; returns how many words there are."""
    count, before = 0, ONE  # whether there was white space before the block
    for at in range(start, end, BLOCK):
        spaces = bits(kinds, at, SPACE_BIT) | ~below(min(BLOCK, end - at))
        changes = spaces ^ (spaces << ONE | before)
        before = spaces >> HIGHEST
        while changes:
            bounds[count] = at + trailing_zeros(changes)
            changes &= changes - ONE
            count += 1
    if count % 2:
        bounds[count] = end
        count += 1
    return count // 2


@kernel
def num_words(kinds: Bytes, start: int, end: int) -> int:
    """How many words there are in these bytes."""
    count, before = 0, ONE  # whether there was white space before the block
    for at in range(start, end, BLOCK):
        spaces = bits(kinds, at, SPACE_BIT) | ~below(min(BLOCK, end - at))
        count += ones(~spaces & (spaces << ONE | before))
        before = spaces >> HIGHEST
    return count


@kernel
def line_end(data: Bytes, at: int, end: int) -> int:
    """Where the line that goes on at `at` ends: its newline, or `end`."""
    while at < end:
        newlines = zero_bytes(word_at(data, at) ^ NEWLINES)
        if newlines:
            found: int = at + trailing_zeros(newlines) // 8
            return min(end, found)
        at += 8
    return end


@kernel
def stripped(kinds: Bytes, first: int, last: int) -> tuple[int, int]:
    """Without the white space at the ends."""
    while first < last and kinds[first] & SPACE:
        first += 1
    while first < last and kinds[last - 1] & SPACE:
        last -= 1
    return first, last
