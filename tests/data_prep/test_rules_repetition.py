"""Gopher's limits on repeated n-grams, against the plainest way to count them, and words against `str.split`."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.filters.ngrams import gopher_duplicate_ngrams, gopher_top_ngrams
from data_prep.filters.words import num_without_letter, word_keys, words_of

TOP = {2: 0.20, 3: 0.18, 4: 0.16}
DUPLICATE = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
few_words = st.lists(st.sampled_from(["a", "bb", "ccc", "été", "a-long-word", "x" * 40]), max_size=60)
many_words = st.lists(st.integers(0, 30), max_size=120).map(lambda some: [f"w{i}" for i in some])
texts = st.one_of(any_text, few_words.map(" ".join), many_words.map("\n".join))


def plainly_top(text: str) -> str | None:
    words = text.split()
    for n, limit in TOP.items():
        grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        if not grams:
            return None
        count = max(grams.values())
        longest = max(len("".join(gram)) for gram, times in grams.items() if times == count)
        if count > 1 and count * longest > limit * len("".join(words)):
            return f"top_{n}gram"
    return None


def plainly_duplicate(text: str) -> str | None:
    words = text.split()
    for n, limit in DUPLICATE.items():
        seen: set[tuple[str, ...]] = set()
        covered: set[int] = set()
        for i in range(len(words) - n + 1):
            gram = tuple(words[i : i + n])
            if gram in seen:
                covered.update(range(i, i + n))
            seen.add(gram)
        if sum(len(words[i]) for i in covered) > limit * len("".join(words)):
            return f"duplicate_{n}gram"
    return None


@settings(max_examples=300, deadline=None)
@given(texts)
def test_top_ngrams_are_counted_as_plainly(text: str) -> None:
    assert gopher_top_ngrams(text) == plainly_top(text)


@settings(max_examples=300, deadline=None)
@given(st.one_of(texts, st.tuples(many_words, many_words).map(lambda two: " ".join(two[0] + two[1] + two[0][:12]))))
def test_duplicate_ngrams_are_counted_as_plainly(text: str) -> None:
    assert gopher_duplicate_ngrams(text) == plainly_duplicate(text)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_words_are_those_of_split(text: str) -> None:
    words = text.split()
    found = words_of(text)
    spans = zip(found.starts.tolist(), found.stops.tolist(), strict=True)
    assert [found.data[start:stop].decode() for start, stop in spans] == words
    assert np.diff(found.ends).tolist() == [len(word) for word in words]
    keys = word_keys(text).tolist()
    assert len(set(zip(keys, words, strict=True))) == len(set(keys)) == len(set(words))
    assert num_without_letter(text) == sum(not any(map(str.isalpha, word)) for word in words)


def unlike(count: int, first: int = 0) -> list[str]:
    """So many different words of five characters."""
    return [f"{i:05d}" for i in range(first, first + count)]


@pytest.mark.parametrize("n", TOP)
def test_the_limit_of_the_top_ngram(n: int) -> None:
    # Ten times n words among 100 / limit: at n = 4, 40 of 250.
    total = round(10 * n / TOP[n])
    repeated = [f"{c}{c}{c}{c}{c}" for c in "abcd"[:n]]

    def text(of: int) -> str:
        others = unlike(of - 10 * n)
        pieces = [[*repeated, *others[i::10]] for i in range(10)]
        return " ".join(word for piece in pieces for word in piece)

    thresholds = {f"max_top_{m}gram": 1.0 for m in TOP if m != n}
    assert gopher_top_ngrams(text(total + 1), **thresholds) is None
    assert gopher_top_ngrams(text(total - 1), **thresholds) == f"top_{n}gram"


@pytest.mark.parametrize("n", DUPLICATE)
def test_the_limit_of_duplicate_ngrams(n: int) -> None:
    thresholds = {f"max_duplicate_{m}gram": 1.0 for m in DUPLICATE if m != n}
    total = int(n / DUPLICATE[n])  # words: n of them there again are just at the limit or above
    text = unlike(total - n) + unlike(n)
    assert gopher_duplicate_ngrams(" ".join(text), **thresholds) == (
        None if n <= DUPLICATE[n] * total else f"duplicate_{n}gram"
    )
    assert gopher_duplicate_ngrams(" ".join(unlike(total - n + 1) + unlike(n)), **thresholds) is None
    assert gopher_duplicate_ngrams(" ".join(unlike(total - n - 1) + unlike(n)), **thresholds) == f"duplicate_{n}gram"
