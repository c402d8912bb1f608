"""Exact duplicates: who is one, and which one of them survives.

Documents are duplicates if their cleaned texts have the same 128-bit hash. The first one in the order of the corpus
(source as configured, file by name, place in it) survives: a pure function of the inputs, whatever the order in which
tasks finish. Hashes are looked at in buckets of equal prefix, one task a bucket, so memory is bounded by the bucket and
not by the corpus.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.texts import Int64s

DROP = np.dtype([("part", "<u4"), ("row", "<u4")])
"""A document that does not survive: number of the part, row among its chosen ones."""
BUCKET_DOCUMENTS = 4_000_000
"""Documents of a bucket: about 30 bytes each while it is sorted, so 120 MB."""

Sorted = npt.NDArray[np.void]
"""What is looked up in buckets, sorted by a 64-bit field of it."""


def num_buckets(num_documents: int) -> int:
    """A power of two: buckets are prefixes of the hash."""
    return 1 << (max(1, -(-num_documents // BUCKET_DOCUMENTS)) - 1).bit_length()


def bucket_slice(entries: Sorted, by: str, bucket: int, buckets: int) -> Sorted:
    """Those of some sorted entries whose field's prefix is the bucket's."""
    width = 2**64 // buckets
    first = np.searchsorted(entries[by], np.uint64(bucket * width), side="left")
    last = np.searchsorted(entries[by], np.uint64(bucket * width + width - 1), side="right")
    return entries[first:last]


def duplicates(bucket: Iterable[tuple[int, Sorted]]) -> tuple[npt.NDArray[np.void], dict[int, int]]:
    """The places, as sorted `DROP` rows, of all documents of a bucket that do not survive; and how many groups have how
    many documents.

    `bucket` gives each part's number and its entries with the fields `high`, `low` and `row`.
    """
    pieces = [(part, entries) for part, entries in bucket if len(entries)]
    if not pieces:
        return np.zeros(0, dtype=DROP), {}
    places = np.concatenate([places_of(number, entries["row"]) for number, entries in pieces])
    high, low = (np.concatenate([entries[name] for _, entries in pieces]) for name in ("high", "low"))
    order = np.lexsort((places, low, high))
    again = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
    groups = np.cumsum(np.concatenate([[True], ~again]))
    sizes, counts = np.unique(np.unique(groups, return_counts=True)[1], return_counts=True)
    clusters = {size: count for size, count in zip(sizes.tolist(), counts.tolist(), strict=True) if size > 1}
    return as_drops(places[order[1:][again]]), clusters


def places_of(part: int, rows: npt.NDArray[Any]) -> Int64s:
    """A document's place in the corpus as one number: parts are in order of source and of place in the input."""
    return rows.astype(np.int64) + (part << 32)


def as_drops(places: Int64s) -> npt.NDArray[np.void]:
    """Sorted `DROP` rows."""
    places = np.sort(places)
    drops = np.empty(len(places), dtype=DROP)
    drops["part"], drops["row"] = places >> 32, places & 0xFFFFFFFF
    return drops


def drops_of(drops: npt.NDArray[np.void], part: int) -> npt.NDArray[np.uint32]:
    """The rows of one part among sorted drops."""
    first, last = np.searchsorted(drops["part"], [part, part + 1])
    return np.asarray(drops["row"][first:last])
