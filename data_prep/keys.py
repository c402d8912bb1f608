"""Keyed hashes: the only source of randomness in a corpus.

A document's place in the shuffle, whether it is held out and whether the tokenizer is trained on it are each a hash of
(purpose, seed, source, id). They depend on nothing else: not on workers, files, timing or Python's `hash()`.
xxh3 is used because keys need spread, not secrecy; what must be tamper-proof is a sha256.
"""

from collections.abc import Sequence

import xxhash

SHUFFLE = "shuffle"
HELDOUT = "heldout"
SAMPLE = "sample"
PURPOSES = (SHUFFLE, HELDOUT, SAMPLE)


def purpose_seed(purpose: str, seed: int, source: str) -> int:
    """The 64-bit hash seed of one purpose in one source. Keys of two purposes are independent."""
    return int(xxhash.xxh3_64_intdigest(f"{purpose}/{seed}/{source}".encode()))


def document_key(purpose: str, seed: int, source: str, document_id: str) -> int:
    """A document's 64-bit key for a purpose. Documents are shuffled by sorting on their `SHUFFLE` key."""
    return int(xxhash.xxh3_64_intdigest(document_id.encode(), purpose_seed(purpose, seed, source)))


def document_keys(document_id: str, seeds: Sequence[int]) -> list[int]:
    """The keys of a document for several purposes, given their `purpose_seed`s."""
    data = document_id.encode()
    return [xxhash.xxh3_64_intdigest(data, seed) for seed in seeds]


def content_hash(text: bytes) -> int:
    """128 bits of the cleaned text: equal texts are exact duplicates, and equal keys are told apart by it."""
    return int(xxhash.xxh3_128_intdigest(text))


def content_halves(text: bytes) -> tuple[int, int]:
    """The content hash as two 64-bit halves, high and low."""
    return divmod(content_hash(text), 2**64)
