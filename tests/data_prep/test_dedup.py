"""Exact duplicates: the survivor is a pure function of the documents, whatever the parts and buckets."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep import dedup

document = st.tuples(st.sampled_from([0, 1, 2**63, 2**64 - 1]), st.integers(0, 1), st.sampled_from("ab"))
parts_of_documents = st.lists(st.lists(document, max_size=8), max_size=6)


def dropped(parts: list[list[tuple[int, int, str]]], buckets: int) -> list[tuple[int, int]]:
    """Places dropped when each part is its own (source = part number // 2) and documents are (high, low, id)."""

    def rank(places: list[dedup.Place]) -> list[tuple[int, str]]:
        return [(part // 2, parts[part][row][2]) for part, row in places]

    hashes = []
    for part in parts:
        array = np.array([(high, low, row) for row, (high, low, _) in enumerate(part)], dtype=dedup.HASH)
        hashes.append(array[np.lexsort((array["low"], array["high"]))])
    found: list[tuple[int, int]] = []
    for bucket in range(buckets):
        pieces = ((number, dedup.bucket_slice(array, bucket, buckets)) for number, array in enumerate(hashes))
        found += [tuple(entry) for entry in dedup.duplicates(pieces, rank).tolist()]
    return sorted(found)


@given(parts_of_documents, st.sampled_from([1, 2, 8]))
def test_the_smallest_source_then_id_then_place_survives(parts: list[list[tuple[int, int, str]]], buckets: int) -> None:
    groups: dict[tuple[int, int], list[tuple[int, str, int, int]]] = {}
    for part, documents in enumerate(parts):
        for row, (high, low, one) in enumerate(documents):
            groups.setdefault((high, low), []).append((part // 2, one, part, row))
    expected = sorted((part, row) for group in groups.values() for _, _, part, row in sorted(group)[1:])
    assert dropped(parts, buckets) == expected


def test_buckets_are_a_power_of_two() -> None:
    sizes = [0, 1, dedup.BUCKET_DOCUMENTS, dedup.BUCKET_DOCUMENTS + 1, 5 * dedup.BUCKET_DOCUMENTS]
    assert [dedup.num_buckets(size) for size in sizes] == [1, 1, 1, 2, 8]
