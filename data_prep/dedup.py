"""Exact duplicates: who is one, and which one of them survives.

Documents are duplicates if their cleaned texts have the same 128-bit hash. The smallest (source position in the config,
id, place in the input) survives: a pure function of the documents, whatever the order in which tasks finish. Hashes are
looked at in buckets of equal prefix, one task a bucket, so memory is bounded by the bucket and not by the corpus.
"""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

HASH = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4")])
"""A document of a part: its content hash and its row; parts store them sorted by hash."""
DROP = np.dtype([("part", "<u4"), ("row", "<u4")])
BUCKET_DOCUMENTS = 4_000_000
"""Documents of a bucket: about 30 bytes each while it is sorted, so 120 MB."""

Hashes = npt.NDArray[np.void]
Place = tuple[int, int]
"""(part, row): parts are in order of source and of place in the input."""


def num_buckets(num_documents: int) -> int:
    """A power of two: buckets are prefixes of the hash."""
    return 1 << (max(1, -(-num_documents // BUCKET_DOCUMENTS)) - 1).bit_length()


def bucket_slice(hashes: Hashes, bucket: int, buckets: int) -> Hashes:
    """Those of a part's sorted hashes whose prefix is the bucket's."""
    width = 2**64 // buckets
    first = np.searchsorted(hashes["high"], np.uint64(bucket * width), side="left")
    last = np.searchsorted(hashes["high"], np.uint64(bucket * width + width - 1), side="right")
    return hashes[first:last]


def duplicates(
    bucket: Iterable[tuple[int, Hashes]], rank: Callable[[list[Place]], list[tuple[int, str]]]
) -> npt.NDArray[np.void]:
    """The places, as sorted `DROP` rows, of all documents of a bucket that do not survive.

    `bucket` gives each part's number and hashes; `rank` gives (source position, id) of places, and is asked about
    documents with duplicates only, because ids are the larger half of what would have to be read.
    """
    pieces = [(part, hashes) for part, hashes in bucket if len(hashes)]
    if not pieces:
        return np.zeros(0, dtype=DROP)
    part = np.concatenate([np.full(len(hashes), number, dtype=np.uint32) for number, hashes in pieces])
    high, low, row = (np.concatenate([hashes[name] for _, hashes in pieces]) for name in ("high", "low", "row"))
    order = np.lexsort((row, part, low, high))
    part, row, high, low = part[order], row[order], high[order], low[order]
    as_before = np.concatenate([[False], (high[1:] == high[:-1]) & (low[1:] == low[:-1])])
    as_behind = np.concatenate([as_before[1:], [False]])
    shared = as_before | as_behind
    group = np.cumsum(~as_before)[shared].tolist()
    places: list[Place] = list(zip(part[shared].tolist(), row[shared].tolist(), strict=True))
    dropped: list[Place] = []
    best: tuple[int, tuple[int, str], Place] | None = None
    for number, ranked, place in zip(group, rank(places), places, strict=True):
        if best is None or best[0] != number:
            best = (number, ranked, place)
        elif (ranked, place) < best[1:]:
            dropped.append(best[2])
            best = (number, ranked, place)
        else:
            dropped.append(place)
    return np.array(sorted(dropped), dtype=DROP)
