"""Words and runs of words as 64-bit hashes: what near-duplicates and contamination are both looked for with.

    "The cat’s 2nd"  ->  the cat s 2nd  ->  a hash a word  ->  a hash for each n words in a row

Case and punctuation are ignored, as in GPT-3's search for contamination (https://arxiv.org/abs/2005.14165, appendix C)
and in datatrove's MinHash for FineWeb. A word is a run of letters and digits. ASCII letters are lower-cased; all
characters beyond ASCII count as letters and are kept as they are, with two exceptions. Punctuation that typesetters
and web pages put in the place of ASCII's (U+0080-00BF, U+2000-207F, U+3000-303F, full-width marks) separates words, or
curly quotes would hide a copy. And a Chinese or Japanese character (U+3040-9FFF) is a word of its own, as these scripts
put nothing between words.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.native import kernel
from data_prep.texts import Bytes, Int64s, Texts

Uint64s = npt.NDArray[np.uint64]

SEPARATOR, LOOK_AGAIN = 0, 1
"""In `FOLDED`: the byte is in no word; the character that begins here decides. Both are control characters."""
FNV_BASIS, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
"""FNV-1a, 64 bits (http://www.isthe.com/chongo/tech/comp/fnv)."""
MIX_1, MIX_2, MIX_SHIFT = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)
"""MurmurHash3's finaliser: FNV alone spreads a word's last letters over the low bits only."""
ROLL = np.uint64(0x9E3779B97F4A7C15)
"""What a hash is multiplied by for each word that follows it: 2**64 over the golden ratio, odd."""


def _folded() -> Bytes:
    table = np.full(256, SEPARATOR, dtype=np.uint8)
    for byte in range(256):
        if byte >= 0x80 or chr(byte).isalnum():
            table[byte] = ord(chr(byte).lower()) if byte < 0x80 else byte
    table[[0xC2, *range(0xE2, 0xEA), 0xEF]] = LOOK_AGAIN
    return table


FOLDED = _folded()
"""Each byte as it is hashed."""


@dataclass(frozen=True, slots=True)
class Hashes:
    """Each document's hashes, one document after another."""

    values: Uint64s
    offsets: Int64s
    """One more than there are documents."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, document: int) -> Uint64s:
        return self.values[self.offsets[document] : self.offsets[document + 1]]

    @property
    def counts(self) -> Int64s:
        return np.diff(self.offsets)


def word_hashes(texts: Texts) -> Hashes:
    """A hash for each word of each text (valid UTF-8), in order."""
    # The most words that fit. Pages that stay untouched take no memory.
    values = np.empty((len(texts.data) + len(texts)) // 2 + 1, dtype=np.uint64)
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    count = _hash_words(texts.data, texts.offsets, values, offsets)
    return Hashes(values[:count], offsets)


def ngram_hashes(words: Hashes, length: int, shortest: int | None = None) -> Hashes:
    """A hash for each `length` words in a row.

    A document of fewer words, but at least `shortest` (which is `length` if not given), has one n-gram: all its words.
    """
    assert 1 <= (shortest or length) <= length
    values = np.empty(len(words.values), dtype=np.uint64)
    offsets = np.zeros(len(words) + 1, dtype=np.int64)
    count = _hash_ngrams(words.values, words.offsets, length, shortest or length, values, offsets)
    return Hashes(values[:count], offsets)


@kernel
def _mixed(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> MIX_SHIFT)) * MIX_1
    value = (value ^ (value >> MIX_SHIFT)) * MIX_2
    return value ^ (value >> MIX_SHIFT)


@kernel
def _width(data: Bytes, at: int, end: int) -> int:
    """Bytes of the character at `at`, negative if it separates words; 0 if it is a letter like any other."""
    lead = data[at]
    if lead == 0xC2:
        return -2
    if at + 2 >= end:
        return 0
    second, third = data[at + 1], data[at + 2]
    if lead == 0xE2:
        return -3 if second <= 0x81 else 0
    if lead == 0xEF:
        return -3 if second == 0xBC and (third < 0x90 or 0x9A <= third <= 0xA0) else 0
    return -3 if lead == 0xE3 and second == 0x80 else 3


@kernel
def _hash_words(data: Bytes, offsets: Int64s, values: Uint64s, bounds: Int64s) -> int:
    count = 0
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        value = FNV_BASIS
        while at < end:
            byte = FOLDED[data[at]]
            width = 0
            if byte <= LOOK_AGAIN:
                width = -1 if byte == SEPARATOR else _width(data, at, end)
            if width == 0:
                value = (value ^ np.uint64(data[at] if byte == LOOK_AGAIN else byte)) * FNV_PRIME
                at += 1
                continue
            if value != FNV_BASIS:
                values[count] = _mixed(value)
                count += 1
                value = FNV_BASIS
            if width > 0:
                for place in range(at, at + width):
                    value = (value ^ np.uint64(data[place])) * FNV_PRIME
                values[count] = _mixed(value)
                count += 1
                value = FNV_BASIS
            at += abs(width)
        if value != FNV_BASIS:
            values[count] = _mixed(value)
            count += 1
        bounds[document + 1] = count
    return count


@kernel
def _hash_ngrams(words: Uint64s, offsets: Int64s, length: int, shortest: int, values: Uint64s, bounds: Int64s) -> int:
    """Rolling polynomial: words[i] * ROLL**(n-1) + ... + words[i+n-1], mixed."""
    leaving = np.uint64(1)
    for _ in range(length):
        leaving *= ROLL
    count = 0
    for document in range(len(offsets) - 1):
        first, end = offsets[document], offsets[document + 1]
        rolled = np.uint64(0)
        full = min(first + length, end)
        for place in range(first, full):
            rolled = rolled * ROLL + words[place]
        if end - first >= shortest:
            values[count] = _mixed(rolled)
            count += 1
        for place in range(full, end):
            rolled = rolled * ROLL + words[place] - words[place - length] * leaving
            values[count] = _mixed(rolled)
            count += 1
        bounds[document + 1] = count
    return count
