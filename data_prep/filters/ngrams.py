"""Repeated n-grams of words, counted for every n from 2 to 10 and for every text.

    words       the  mill  and  the  mill  stands
    firsts 2      1     2    3    1     5             where a 2-gram like the one that begins here began first
    firsts 3      0     0    0    0     0             by the pair of firsts 2 here and at the next word; and so on

An n-gram is there again only if both (n-1)-grams in it are. So each level looks only at what the level below found
repeated: a third of the words at first, a sixth from 5 on. Nothing but words and 2-grams, by 64 bits, is hashed that
could be mistaken for another. Places count from 1 and have no sign: half as much again is gained by that (blocks.py).
"""

import numpy as np
import numpy.typing as npt

from data_prep.filters.blocks import ONE, ZERO, Word, count_bits, hash_of
from data_prep.filters.bounds import word_bounds
from data_prep.filters.characters import CONTINUATION_BIT
from data_prep.native import kernel
from data_prep.texts import Bytes, Int64s

Uint32s = npt.NDArray[np.uint32]
Uint64s = npt.NDArray[np.uint64]

NGRAM_SCORES = (
    *(f"top_{n}gram_characters" for n in range(2, 5)),
    *(f"duplicate_{n}gram_characters" for n in range(5, 11)),
)
LONGEST_NGRAM = 10
GOLDEN, HALF_WORD = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)
"""2**64 over the golden ratio: sends neighbouring numbers far apart."""


@kernel
def ngram_scores(data: Bytes, kinds: Bytes, offsets: Int64s) -> Int64s:
    """`NGRAM_SCORES`, a row each, in characters of words. Data and kinds are padded.

    top        the most frequent n-gram: how often it is there times its length; 0 if it is there once. Of equally
               frequent ones the longest counts
    duplicate  n-grams that were there before; each character counts once
    """
    scores = np.zeros((9, len(offsets) - 1), dtype=np.int64)
    most_words = 2
    for text in range(len(offsets) - 1):
        most_words = max(most_words, (offsets[text + 1] - offsets[text]) // 2 + 2)
    bounds = np.empty(2 * most_words, dtype=np.int64)
    keys = np.empty(most_words + 1, dtype=np.uint64)
    ends = np.zeros(most_words + 1, dtype=np.int64)
    active = np.empty(most_words, dtype=np.uint32)
    firsts = np.empty(most_words + 1, dtype=np.uint32)
    counts = np.empty(most_words + 1, dtype=np.uint32)
    slots = np.empty(table_size(most_words), dtype=np.uint32)
    for text in range(len(offsets) - 1):
        num_words = word_bounds(kinds, offsets[text], offsets[text + 1], bounds)
        take_words(data, kinds, bounds, num_words, keys, ends)
        num_active = max(0, num_words - 1)
        firsts[num_active + 1] = 0
        for place in range(1, num_active + 1):
            active[place - 1] = place
            keys[place] = keys[place] * GOLDEN + keys[place + 1]
        for n in range(2, LONGEST_NGRAM + 1):
            if not num_active:
                break
            top = find_firsts(keys, active[:num_active], firsts, counts, slots, ends, n)
            if n < 5:
                scores[n - 2, text] = top
            else:
                scores[n - 2, text] = duplicate_characters(active[:num_active], firsts, ends, n)
            num_active = keep_repeated(keys, active[:num_active], firsts, counts)
    return scores


@kernel
def table_size(entries: int) -> Word:
    """A power of two that leaves half of the slots free."""
    size = 4
    while size < 2 * entries:
        size *= 2
    return np.uint64(size)


@kernel
def take_words(data: Bytes, kinds: Bytes, bounds: Int64s, num_words: int, keys: Uint64s, ends: Int64s) -> None:
    """Fills in each word's key, and the characters of all words up to its end."""
    characters = 0
    for word in range(num_words):
        start, end = bounds[2 * word], bounds[2 * word + 1]
        keys[word + 1] = hash_of(data, start, end)
        characters += end - start - count_bits(kinds, start, end, CONTINUATION_BIT)
        ends[word + 1] = characters


@kernel
def find_firsts(
    keys: Uint64s, active: Uint32s, firsts: Uint32s, counts: Uint32s, slots: Uint32s, ends: Int64s, n: int
) -> int:
    """Fills in for each active place the first place with an equal key, and for that one how many there are; returns
    the top characters. An n-gram counts for those when it comes level with the most frequent so far: the last to do
    so are the most frequent of all."""
    mask = table_size(len(active)) - ONE
    slots[: mask + ONE] = 0
    most, longest = 1, 0
    for number in active:
        place = np.uint64(number)
        key = keys[place]
        slot = key * GOLDEN >> HALF_WORD & mask
        first = np.uint64(slots[slot])
        while first != ZERO and keys[first] != key:
            slot = slot + ONE & mask
            first = np.uint64(slots[slot])
        if first == ZERO:
            slots[slot] = firsts[place] = place
            counts[place] = 1
            continue
        firsts[place] = first
        count = counts[first] + 1
        counts[first] = count
        if count >= most:
            length = ends[first + np.uint64(n - 1)] - ends[first - ONE]
            longest = length if count > most else max(longest, length)
            most = count
    return most * longest


@kernel
def keep_repeated(keys: Uint64s, active: Uint32s, firsts: Uint32s, counts: Uint32s) -> int:
    """Leaves those active that are repeated and whose next is; their keys become those of the longer n-grams. Without
    a branch: which n-grams are repeated cannot be guessed."""
    kept = 0
    for number in active:
        place = np.uint64(number)
        here, behind = np.uint64(firsts[place]), np.uint64(firsts[place + ONE])
        stays = (behind != ZERO) & (counts[here] > 1) & (counts[behind] > 1)
        keys[place] = here << HALF_WORD | behind
        active[kept] = number
        firsts[place] = here if stays else ZERO
        kept += stays
    return kept


@kernel
def duplicate_characters(active: Uint32s, firsts: Uint32s, ends: Int64s, n: int) -> int:
    characters, covered = 0, ZERO
    for number in active:
        place = np.uint64(number)
        if firsts[place] != place:
            characters += ends[place + np.uint64(n - 1)] - ends[max(place - ONE, covered)]
            covered = place + np.uint64(n - 1)
    return characters
