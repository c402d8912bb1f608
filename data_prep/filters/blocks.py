"""Kernels' way to see many bytes at once: eight as a number, sixty-four as the bits of one.

    kinds   L L L S L L S S ...        one byte each
    bits    ...1 1 0 0 1 0 0 0         what of `SPACE` is set in them, the first byte in the lowest bit

A loop that asks something of each byte waits for each answer. Of 64 bits the ends of words are three operations, and
the next of them is one instruction (Langdale and Lemire 2019, "Parsing Gigabytes of JSON per Second", section 3.1).

Nothing here looks where an array ends: whoever calls has `padded` it. Numbers without a sign, as numba makes a float of
one with and one without; and an index that may be negative costs a test at each use.
"""

from typing import Any, TypeAlias

import numpy as np
from numba import types

from data_prep.native import intrinsic, kernel
from data_prep.texts import Bytes

Word: TypeAlias = "np.uint64 | Any"
"""64 bits without a sign."""

BLOCK = 64
"""Bytes looked at together."""
ZERO, ONE, BLOCK_BITS = np.uint64(0), np.uint64(1), np.uint64(BLOCK)
ALL = np.uint64(2**64 - 1)
LOWEST_BITS = np.uint64(0x0101010101010101)
GATHER, TO_LOWEST_BYTE = np.uint64(0x0102040810204080), np.uint64(56)
"""Times `GATHER`, the lowest bits of eight bytes are the highest byte, in order."""
HIGHEST_BITS = LOWEST_BITS << np.uint64(7)
MIX_1, MIX_2, MIX_SHIFT = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(32)
"""MurmurHash3's factors: odd, so that no bit is lost."""


def padded(data: Bytes) -> Bytes:
    """A copy with a block of zeros behind it."""
    copied = np.empty(len(data) + BLOCK, dtype=np.uint8)
    copied[: len(data)], copied[len(data) :] = data, 0
    return copied


@intrinsic
def word_at(typing_context: Any, data: Any, at: Any) -> Any:
    """(data, at) -> the eight bytes from `at` on as a `Word`, the first one lowest."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        word = context.get_value_type(types.uint64)
        loaded = builder.load(builder.bitcast(builder.gep(array.data, [arguments[1]]), word.as_pointer()))
        loaded.align = 1
        return loaded

    return types.uint64(data, types.int64), generate


@intrinsic
def trailing_zeros(typing_context: Any, word: Any) -> Any:
    """(word,) -> the place of its lowest bit that is set, from 0; 64 if there is none."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], context.get_constant(types.boolean, False))

    return types.int64(types.uint64), generate


@intrinsic
def ones(typing_context: Any, word: Any) -> Any:
    """(word,) -> how many of its bits are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@kernel
def bits(kinds: Bytes, at: int, kind: int) -> Word:
    """Which of the 64 bytes from `at` on have the bit of this place (0 to 7) set."""
    found = ZERO
    for eight in range(8):
        lowest = word_at(kinds, at + 8 * eight) >> np.uint64(kind) & LOWEST_BITS
        found |= (lowest * GATHER >> TO_LOWEST_BYTE) << np.uint64(8 * eight)
    return found


@kernel
def below(count: int) -> Word:
    """A word with so many (0 to 64) of its lowest bits set."""
    return ALL >> BLOCK_BITS - np.uint64(count) if count else ZERO


@kernel
def zero_bytes(word: Word) -> Word:
    """The highest bit of each byte that is 0, and of some above one: the lowest of them is right.

    Taking 1 from a byte of 0 borrows from the next (Warren, Hacker's Delight, 6-1).
    """
    return (word - LOWEST_BITS) & ~word & HIGHEST_BITS


@kernel
def hash_of(data: Bytes, start: int, end: int) -> Word:
    """64 bits that tell these bytes from others; of up to eight bytes, surely from all others as long."""
    left = end - start
    key = np.uint64(left) * MIX_2
    while left > 8:
        key = (key ^ word_at(data, start)) * MIX_1
        key ^= key >> MIX_SHIFT
        start += 8
        left -= 8
    key = (key ^ word_at(data, start) & below(8 * left)) * MIX_1
    return key ^ key >> MIX_SHIFT


@kernel
def count_bits(kinds: Bytes, start: int, end: int, kind: int) -> int:
    """How many of these bytes have the bit of this place set."""
    wanted, count, left = LOWEST_BITS << np.uint64(kind), 0, end - start
    while left > 0:
        count += ones(word_at(kinds, start) & wanted & below(8 * min(8, left)))
        start += 8
        left -= 8
    return count
