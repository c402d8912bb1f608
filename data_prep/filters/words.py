"""The words of a text as numbers: where each starts and ends, found without making a string of each.

    UTF-8 bytes -> white space by a table -> starts and ends -> the eight bytes at each start, masked: a number each

Words are what `str.split` gives: what stands between white space. Rules ask for the words of one text one after
another, so the last text's are kept.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import xxhash

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

SPACES = bytes(b < 0x80 and chr(b).isspace() for b in range(256))
LETTERS = bytes(b < 0x80 and chr(b).isalpha() for b in range(256))
"""Tables for `bytes.translate`, which is faster than indexing: 1 where the byte is white space, or a letter."""
MASKS = np.array([(1 << (8 * n)) - 1 for n in range(9)], dtype=np.uint64)
"""Keep the first n bytes of eight."""
HASHED_IN_STEPS = 24
"""Bytes of a word; longer ones, which are rare, are hashed one by one."""
MIX = np.uint64(0x9E3779B97F4A7C15)
MIX_AGAIN = np.uint64(0xBF58476D1CE4E5B9)
"""Multipliers of SplitMix64 (Steele et al. 2014), which send neighbouring numbers far apart."""


@dataclass(frozen=True, slots=True)
class Words:
    data: bytes
    """The text in UTF-8 between white space."""
    starts: Ints
    stops: Ints
    """Byte offsets in `data`."""
    ends: Ints
    """Characters of words before each word, and at the end those of all."""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def num_characters(self) -> int:
        return int(self.ends[-1])


@lru_cache(maxsize=1)
def words_of(text: str) -> Words:
    plain = text.isascii()
    data = b" %b        " % (text if plain else " ".join(text.split())).encode()  # Unicode has more white space
    space = np.frombuffer(data.translate(SPACES), dtype=bool)
    bounds = np.flatnonzero(space[1:] ^ space[:-1]) + 1
    starts, stops = bounds[::2], bounds[1::2]
    ends = np.zeros(len(starts) + 1, dtype=np.int64)
    if plain:
        np.cumsum(stops - starts, out=ends[1:])
    else:
        begun = np.cumsum((np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80)
        np.cumsum(begun[stops] - begun[starts], out=ends[1:])
    return Words(data, starts, stops, ends)


@lru_cache(maxsize=1)
def word_keys(text: str) -> Keys:
    """A 64-bit hash for each word."""
    words = words_of(text)
    eights = np.ndarray(len(words.data) - 7, dtype="<u8", buffer=words.data, strides=(1,))
    lengths = words.stops - words.starts
    keys = _mixed(eights[words.starts] & MASKS[np.minimum(lengths, 8)])
    longer = np.flatnonzero(lengths > 8)
    for first in range(8, HASHED_IN_STEPS, 8):
        if not len(longer):
            return keys
        more = eights[words.starts[longer] + first] & MASKS[np.minimum(lengths[longer] - first, 8)]
        keys[longer] = _mixed(keys[longer] + more)
        longer = longer[lengths[longer] > first + 8]
    for place in longer.tolist():
        keys[place] = xxhash.xxh64_intdigest(words.data[words.starts[place] : words.stops[place]])
    return keys


def _mixed(keys: Keys) -> Keys:
    keys = keys * MIX
    keys ^= keys >> np.uint64(30)
    keys *= MIX_AGAIN
    keys ^= keys >> np.uint64(27)
    return keys


def ngram_keys(words: Keys, n: int) -> Keys:
    """A 64-bit key for each n-gram, equal for equal ones."""
    count = len(words) - n + 1
    keys = words[:count].copy()
    for i in range(1, n):
        keys *= MIX
        keys += words[i : i + count]
    return keys


def num_without_letter(text: str) -> int:
    """Words in which no letter of any script stands."""
    words = words_of(text)
    if not len(words):
        return 0
    with_letter = np.logical_or.reduceat(np.frombuffer(words.data.translate(LETTERS), dtype=bool), words.starts)
    without = np.flatnonzero(~with_letter)
    if text.isascii():
        return len(without)
    spans = zip(words.starts[without].tolist(), words.stops[without].tolist(), strict=True)
    return sum(not any(map(str.isalpha, words.data[start:stop].decode())) for start, stop in spans)
