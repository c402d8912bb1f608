"""Repeated n-grams of words, counted for every n from 2 to 10 and for every text.

    words       the  mill  and  the  mill  stands
    firsts 2      0     1    2    0     4             where a 2-gram like the one that begins here began first
    firsts 3      .     .    .    .     .             by the pair of firsts 2 here and at the next word; and so on

An n-gram is there again only if both (n-1)-grams in it are. So each level looks only at what the level below found
repeated: a tenth of the words at first, a hundredth from 5 on. Nothing but words and 2-grams, by 64 bits, is hashed
that could be mistaken for another.
"""

import numpy as np
import numpy.typing as npt

from data_prep.filters.characters import CONTINUATION, SPACE
from data_prep.native import kernel
from data_prep.texts import Bytes, Int64s

Int32s = npt.NDArray[np.int32]

NGRAM_SCORES = (
    *(f"top_{n}gram_characters" for n in range(2, 5)),
    *(f"duplicate_{n}gram_characters" for n in range(5, 11)),
)
LONGEST_NGRAM = 10
FNV_START, FNV_PRIME = -3750763034362895579, 1099511628211
"""FNV-1a of 64 bits (Fowler, Noll, Vo), in signed numbers."""
GOLDEN = -7046029254386353131
"""2**64 over the golden ratio: sends neighbouring numbers far apart."""


@kernel
def ngram_scores(data: Bytes, kinds: Bytes, offsets: Int64s) -> Int64s:
    """`NGRAM_SCORES`, a row each, in characters of words.

    top        the most frequent n-gram: how often it is there times its length; 0 if it is there once. Of equally
               frequent ones the longest counts
    duplicate  n-grams that were there before; each character counts once
    """
    scores = np.zeros((9, len(offsets) - 1), dtype=np.int64)
    most_words = 2
    for text in range(len(offsets) - 1):
        most_words = max(most_words, (offsets[text + 1] - offsets[text]) // 2 + 2)
    keys = np.empty(most_words, dtype=np.int64)
    ends = np.zeros(most_words, dtype=np.int64)
    active = np.empty(most_words, dtype=np.int32)
    firsts = np.empty(most_words, dtype=np.int32)
    counts = np.empty(most_words, dtype=np.int32)
    slots = np.empty(table_size(most_words), dtype=np.int32)
    for text in range(len(offsets) - 1):
        first, last = offsets[text], offsets[text + 1]
        num_active = max(0, split(data[first:last], kinds[first:last], keys, ends) - 1)
        firsts[num_active] = -1
        for place in range(num_active):
            active[place] = place
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
def table_size(entries: int) -> int:
    """A power of two that leaves half of the slots free."""
    size = 4
    while size < 2 * entries:
        size *= 2
    return size


@kernel
def split(data: Bytes, kinds: Bytes, keys: Int64s, ends: Int64s) -> int:
    """Fills in each word's key and the characters of all words up to its end; returns the number of words."""
    words = characters = 0
    key, inside = FNV_START, False
    for at in range(len(data) + 1):
        kind = kinds[at] if at < len(data) else SPACE
        if not kind & SPACE:
            key, inside = (key ^ data[at]) * FNV_PRIME, True
            characters += (kind & CONTINUATION) == 0
        elif inside:
            keys[words] = key
            words += 1
            ends[words] = characters
            key, inside = FNV_START, False
    return words


@kernel
def find_firsts(
    keys: Int64s, active: Int32s, firsts: Int32s, counts: Int32s, slots: Int32s, ends: Int64s, n: int
) -> int:
    """Fills in for each active place the first place with an equal key, and for that one how many there are; returns
    the top characters. An n-gram counts for those when it comes level with the most frequent so far: the last to do
    so are the most frequent of all."""
    mask = table_size(len(active)) - 1
    slots[: mask + 1] = -1
    most, longest = 1, 0
    for place in active:
        key = keys[place]
        slot = (key * GOLDEN >> 32) & mask
        first = slots[slot]
        while first >= 0 and keys[first] != key:
            slot = slot + 1 & mask
            first = slots[slot]
        if first < 0:
            slots[slot] = firsts[place] = place
            counts[place] = 1
            continue
        firsts[place] = first
        counts[first] += 1
        if counts[first] >= most:
            length = ends[first + n] - ends[first]
            longest = length if counts[first] > most else max(longest, length)
            most = counts[first]
    return most * longest if most > 1 else 0


@kernel
def keep_repeated(keys: Int64s, active: Int32s, firsts: Int32s, counts: Int32s) -> int:
    """Leaves those active that are repeated and whose next is; their keys become those of the longer n-grams. Without
    a branch: which n-grams are repeated cannot be guessed."""
    kept = 0
    for place in active:
        here, behind = firsts[place], firsts[place + 1]
        stays = (behind >= 0) & (counts[here] > 1) & (counts[max(behind, 0)] > 1)
        keys[place] = np.int64(here) << 32 | np.int64(behind)
        active[kept] = place
        firsts[place] = here if stays else -1
        kept += stays
    return kept


@kernel
def duplicate_characters(active: Int32s, firsts: Int32s, ends: Int64s, n: int) -> int:
    characters = covered = 0
    for place in active:
        if firsts[place] != place:
            characters += ends[place + n] - ends[max(place, covered)]
            covered = place + n
    return characters
