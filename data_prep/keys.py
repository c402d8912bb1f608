"""Keyed hashes: the only source of randomness in a corpus.

A document's place in the shuffle, whether it is held out and whether the tokenizer is trained on it are each a hash of
(purpose, seed, source, id). They depend on nothing else: not on workers, files, timing or Python's `hash()`.
xxh3 is used because keys need spread, not secrecy; what must be tamper-proof is a sha256.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.texts import Texts

SHUFFLE = "shuffle"
HELDOUT = "heldout"
SAMPLE = "sample"
PURPOSES = (SHUFFLE, HELDOUT, SAMPLE)
SHOWN = "shown"
"""Which documents the report shows."""


def purpose_seed(purpose: str, seed: int, source: str) -> int:
    """The 64-bit hash seed of one purpose in one source. Keys of two purposes are independent."""
    return int(xxhash.xxh3_64_intdigest(f"{purpose}/{seed}/{source}".encode()))


def document_key(purpose: str, seed: int, source: str, document_id: str) -> int:
    """A document's 64-bit key for a purpose. Documents are shuffled by sorting on their `SHUFFLE` key."""
    return int(xxhash.xxh3_64_intdigest(document_id.encode(), purpose_seed(purpose, seed, source)))


def document_keys(document_ids: Sequence[str], seeds: Sequence[int]) -> list[npt.NDArray[np.uint64]]:
    """The keys of documents for several purposes, given their `purpose_seed`s: an array each."""
    data = [one.encode() for one in document_ids]
    hash_of = xxhash.xxh3_64_intdigest
    return [np.array([hash_of(one, seed) for one in data], dtype=np.uint64) for seed in seeds]


def content_hash(text: bytes) -> int:
    """128 bits of the cleaned text: equal texts are exact duplicates, and equal keys are told apart by it."""
    return int(xxhash.xxh3_128_intdigest(text))


def content_halves(text: bytes) -> tuple[int, int]:
    """The content hash as two 64-bit halves, high and low."""
    return divmod(content_hash(text), 2**64)


def content_halves_of(texts: Texts) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The same for many texts: (high, low)."""
    whole, offsets, digest = (
        memoryview(np.ascontiguousarray(texts.data).data),
        texts.offsets.tolist(),
        xxhash.xxh3_128_digest,
    )
    hashes = b"".join([digest(whole[start:end]) for start, end in pairwise(offsets)])
    halves = np.frombuffer(hashes, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    return halves[:, 0], halves[:, 1]


def content_digest(array: npt.NDArray[Any]) -> str:
    """Digest of an array's bytes: equal for equal arrays of one dtype."""
    return str(xxhash.xxh3_128_hexdigest(array.tobytes()))
