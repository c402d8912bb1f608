"""Exact duplicates: the survivor is a pure function of the documents, whatever the parts and buckets."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep import dedup
from data_prep.choosing import HASH

document = st.tuples(st.sampled_from([0, 1, 2**63, 2**64 - 1]), st.integers(0, 1))
parts_of_documents = st.lists(st.lists(document, max_size=8), max_size=6)


@given(parts_of_documents, st.sampled_from([1, 2, 8]))
def test_the_first_survives_and_the_others_are_counted(parts: list[list[tuple[int, int]]], buckets: int) -> None:
    hashes = []
    for part in parts:
        array = np.array([(high, low, row) for row, (high, low) in enumerate(part)], dtype=HASH)
        hashes.append(array[np.lexsort((array["low"], array["high"]))])
    found: list[tuple[int, int]] = []
    sizes: list[int] = []
    for bucket in range(buckets):
        pieces = [(number, dedup.bucket_slice(array, "high", bucket, buckets)) for number, array in enumerate(hashes)]
        drops, clusters = dedup.duplicates(pieces[::-1])
        found += [tuple(entry) for entry in drops.tolist()]
        sizes += [size for size, count in clusters.items() for _ in range(count)]
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for number, documents in enumerate(parts):
        for row, content in enumerate(documents):
            groups.setdefault(content, []).append((number, row))
    assert sorted(found) == sorted(place for group in groups.values() for place in sorted(group)[1:])
    assert sorted(sizes) == sorted(len(group) for group in groups.values() if len(group) > 1)
    for number in range(len(parts)):
        of_part = [dedup.drops_of(np.sort(np.array(found, dtype=dedup.DROP)), number)] if found else []
        assert [row for rows in of_part for row in rows] == sorted(row for part, row in found if part == number)


def test_buckets_are_a_power_of_two() -> None:
    sizes = [0, 1, dedup.BUCKET_DOCUMENTS, dedup.BUCKET_DOCUMENTS + 1, 5 * dedup.BUCKET_DOCUMENTS]
    assert [dedup.num_buckets(size) for size in sizes] == [1, 1, 1, 2, 8]
