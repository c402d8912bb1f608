"""Near-duplicates: found as often as theory says, whatever the batches, buckets and order of edges."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.minhash import Clusters, band_keys, band_minima, bands_for, clusters, pairs, permutation_family
from data_prep.shingles import ngram_hashes, word_hashes
from data_prep.texts import Int64s, texts_of

BANDS, ROWS = 14, 8
WORDS = 120


def keys_of(texts: list[str]) -> tuple[list[list[int]], list[bool]]:
    keys, present = band_keys(word_hashes(texts_of([text.encode() for text in texts])), BANDS, ROWS)
    return keys.tolist(), present.tolist()


def fresh_words(random: np.random.Generator, count: int) -> list[str]:
    return [f"w{number}" for number in random.integers(0, 10**12, count)]


def planted_pair(random: np.random.Generator, similarity: float) -> tuple[str, str, float]:
    """Two texts, the second with words of the first replaced, until it is no more similar than that; and how similar."""
    first = fresh_words(random, WORDS)
    second, exact = list(first), 1.0
    for place in random.permutation(WORDS):
        if exact <= similarity:
            break
        second[place] = fresh_words(random, 1)[0]
        one, other = ({tuple(words[at : at + 5]) for at in range(WORDS - 4)} for words in (first, second))
        exact = len(one & other) / len(one | other)
    return " ".join(first), " ".join(second), exact


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
def test_pairs_are_found_as_often_as_theory_says(similarity: float) -> None:
    random = np.random.default_rng(int(similarity * 100))
    planted = [planted_pair(random, similarity) for _ in range(150)]
    exact = np.array([similar for _, _, similar in planted])
    words = word_hashes(texts_of([text.encode() for pair in planted for text in pair[:2]]))

    keys, _ = band_keys(words, BANDS, ROWS)
    found = (keys[0::2] == keys[1::2]).any(axis=1).sum()
    chance = 1 - (1 - exact**ROWS) ** BANDS
    assert abs(found - chance.sum()) <= 4 * np.sqrt((chance * (1 - chance)).sum()) + 0.5

    minima = band_minima(words, BANDS * ROWS)
    same_bands = (minima[0::2] == minima[1::2]).reshape(-1, BANDS, ROWS).all(axis=2)
    assert np.array_equal(keys[0::2] == keys[1::2], same_bands)
    agreeing = (minima[0::2] == minima[1::2]).mean(axis=1)
    assert abs((agreeing - exact).mean()) <= 4 * np.sqrt((exact * (1 - exact)).sum() / (BANDS * ROWS)) / len(exact)
    assert (agreeing - exact).std() <= 1.3 * np.sqrt((exact * (1 - exact)).mean() / (BANDS * ROWS))


def test_minima_are_those_of_all_shingles() -> None:
    random = np.random.default_rng(0)
    words = word_hashes(texts_of([" ".join(fresh_words(random, count)).encode() for count in range(1, 30)]))
    shingles, minima = ngram_hashes(words, 5, shortest=1), band_minima(words, 20)
    factors, shifts = permutation_family(20)
    for document in range(len(words)):
        lanes = shingles[document].astype(np.uint32)[:, None] * factors + shifts
        assert minima[document].tolist() == lanes.min(axis=0).tolist()


def test_the_permutations_are_splitmix64s() -> None:
    factors, shifts = permutation_family(2)
    outputs = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert [factors[0], shifts[0], factors[1], shifts[1]] == [
        outputs[0] >> 32 | 1,
        outputs[1] >> 32,
        outputs[2] >> 32 | 1,
        outputs[3] >> 32,
    ]


@pytest.mark.parametrize(("bands", "rows"), [(14, 8), (20, 1)])
def test_foreign_texts_share_no_key_and_fill_buckets_evenly(bands: int, rows: int) -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(fresh_words(random, 60)).encode() for _ in range(500)]
    keys, _ = band_keys(word_hashes(texts_of(texts)), bands, rows)
    assert len(set(keys.ravel().tolist())) == 500 * bands
    bucket = np.bincount((keys >> np.uint64(60)).ravel().astype(np.int64), minlength=16)
    assert abs(bucket - keys.size / 16).max() < 4 * np.sqrt(keys.size / 16)


def test_shorter_than_a_shingle() -> None:
    keys, present = keys_of(["", " ?! ", "Two words.", "two, words", "two words more", "words two"])
    assert present == [False, False, True, True, True, True]
    assert keys[2] == keys[3]
    assert len({tuple(row) for row in keys[2:]}) == 3


def test_bands_follow_from_the_threshold() -> None:
    assert bands_for(0.72) == (14, 8)
    assert bands_for(0.8) == (10, 11)
    assert bands_for(0.5, permutations=20) == (6, 3)
    assert bands_for(0.9, permutations=1) == (1, 1)


@given(st.lists(st.text("ab .", max_size=30), max_size=12), st.integers(0, 12))
def test_keys_do_not_depend_on_the_batch(texts: list[str], cut: int) -> None:
    whole, first, second = keys_of(texts), keys_of(texts[:cut]), keys_of(texts[cut:])
    assert whole == (first[0] + second[0], first[1] + second[1])


@given(
    st.lists(st.tuples(st.sampled_from([0, 5, 2**64 - 1]), st.integers(0, 99)), max_size=12, unique_by=lambda e: e[1])
)
def test_pairs_join_each_document_to_the_first_with_its_key(entries: list[tuple[int, int]]) -> None:
    first: dict[int, int] = {}
    for key, place in entries:
        first[key] = min(place, first.get(key, place))
    expected = sorted((first[key], place) for key, place in entries if place != first[key])
    keys, places = (
        np.array([key for key, _ in entries], dtype=np.uint64),
        np.array([p for _, p in entries], dtype=np.int64),
    )
    assert sorted(map(tuple, pairs(keys, places).tolist())) == expected


def as_edges(edges: list[tuple[int, int]]) -> Int64s:
    return np.array(edges, dtype=np.int64).reshape(-1, 2)


def firsts(found: Clusters) -> dict[int, int]:
    return dict(zip(found.places.tolist(), found.firsts.tolist(), strict=True))


edge = st.tuples(st.integers(0, 14), st.integers(0, 14)).filter(lambda ends: ends[0] != ends[1])


@given(st.lists(edge, max_size=20), st.randoms(use_true_random=False), st.integers(0, 20))
def test_clusters_are_components_in_any_order_and_pieces(
    edges: list[tuple[int, int]], random: Random, cut: int
) -> None:
    expected = {place: place for edge in edges for place in edge}
    for _ in expected:
        for one, other in edges:
            expected[one] = expected[other] = min(expected[one], expected[other])
    found = clusters(as_edges(edges))
    assert firsts(found) == expected
    assert found.places.tolist() == sorted(expected)

    members: dict[int, int] = {}
    for first in expected.values():
        members[first] = members.get(first, 0) + 1
    assert found.sizes == {size: list(members.values()).count(size) for size in members.values()}

    other_way = [edge[::-1] for edge in edges]
    random.shuffle(other_way)
    assert firsts(clusters(as_edges(other_way))) == expected
    pieces = [clusters(as_edges(piece)).edges for piece in (other_way[:cut], other_way[cut:])]
    assert firsts(clusters(np.concatenate(pieces))) == expected


def test_a_chain_is_one_cluster() -> None:
    count = 10_000
    links = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)
    for order in (slice(None), slice(None, None, -1)):
        found = clusters(links[order] + 10**12)
        assert found.sizes == {count: 1}
        assert set(found.firsts.tolist()) == {10**12}
