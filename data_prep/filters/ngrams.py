"""Gopher's limits on repeated n-grams of words (Rae et al. 2021, table A1), over numbers instead of strings.

    words -> a key for each n-gram -> sorted: equal n-grams are neighbours

Shares are characters of words over the characters of all words. Two facts spare most of the work and change no outcome:

- no n-gram is there more often than the most frequent 2-gram, so its characters are at most that count times the length
  of the longest n-gram;
- a word that lies in a repeated n-gram, n > 5, lies in a repeated 5-gram too, so the share for 5 bounds all others.
"""

import numpy as np

from data_prep.filters.words import Ints, Keys, ngram_keys, word_keys, words_of


def gopher_top_ngrams(
    text: str, *, max_top_2gram: float = 0.20, max_top_3gram: float = 0.18, max_top_4gram: float = 0.16
) -> str | None:
    """Share of characters in the most frequent 2-, 3- and 4-gram. One that is there only once repeats nothing.

    Of equally frequent ones the longest counts.
    """
    words, ends = word_keys(text), words_of(text).ends
    highest_count = 0
    for n, limit in ((2, max_top_2gram), (3, max_top_3gram), (4, max_top_4gram)):
        if len(words) < n:
            return None
        most = limit * int(ends[-1])
        lengths = ends[n:] - ends[:-n]
        longest = int(lengths.max())
        if highest_count and highest_count * longest <= most:
            continue
        keys = ngram_keys(words, n)
        count = int(_group_sizes(np.sort(keys)).max())
        highest_count = highest_count or count
        if count > 1 and count * longest > most and count * _longest_of_count(keys, lengths, count) > most:
            return f"top_{n}gram"
    return None


def gopher_duplicate_ngrams(
    text: str,
    *,
    max_duplicate_5gram: float = 0.15,
    max_duplicate_6gram: float = 0.14,
    max_duplicate_7gram: float = 0.13,
    max_duplicate_8gram: float = 0.12,
    max_duplicate_9gram: float = 0.11,
    max_duplicate_10gram: float = 0.10,
) -> str | None:
    """Share of characters in 5- to 10-grams that were there before; each character counts once."""
    limits = (
        (5, max_duplicate_5gram),
        (6, max_duplicate_6gram),
        (7, max_duplicate_7gram),
        (8, max_duplicate_8gram),
        (9, max_duplicate_9gram),
        (10, max_duplicate_10gram),
    )
    words, ends = word_keys(text), words_of(text).ends
    for place, (n, limit) in enumerate(limits):
        if len(words) <= n:
            return None
        characters = _repeated_characters(ngram_keys(words, n), n, ends)
        if characters > limit * int(ends[-1]):
            return f"duplicate_{n}gram"
        if characters <= min((limit for _, limit in limits[place + 1 :]), default=0.0) * int(ends[-1]):
            return None
    return None


def _starts(ranked: Keys) -> Ints:
    """Where each group of equal keys starts among sorted keys."""
    new = np.empty(len(ranked), dtype=bool)
    new[:1] = True
    np.not_equal(ranked[1:], ranked[:-1], out=new[1:])
    return np.flatnonzero(new)


def _group_sizes(ranked: Keys) -> Ints:
    starts = _starts(ranked)
    sizes = np.empty(len(starts), dtype=np.int64)
    sizes[:-1] = starts[1:] - starts[:-1]
    sizes[-1] = len(ranked) - starts[-1]
    return sizes


def _longest_of_count(keys: Keys, lengths: Ints, count: int) -> int:
    """Characters of the longest n-gram among those that are there `count` times."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    return int(lengths[order[_starts(ranked)[_group_sizes(ranked) == count]]].max())


def _repeated_characters(keys: Keys, n: int, ends: Ints) -> int:
    """Characters of the words inside n-grams that were there before."""
    ranked = np.sort(keys)
    if not (ranked[1:] == ranked[:-1]).any():
        return 0
    order = np.argsort(keys, kind="stable")
    again = np.ones(len(keys), dtype=bool)
    again[order[_starts(keys[order])]] = False
    depth = np.zeros(len(keys) + n, dtype=np.int64)
    depth[: len(keys)] += again
    depth[n:] -= again
    covered = np.cumsum(depth)[:-1] > 0
    return int((ends[1:] - ends[:-1])[covered].sum())
