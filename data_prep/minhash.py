"""Near-duplicates: MinHash band keys of each document, and the clusters that equal keys make over the whole corpus.

    words -> 5-word shingles -> least of each of 112 permutations -> 14 bands of 8 -> a key a band
    a task for each (band, bucket of keys):  pairs     documents with equal keys, as edges
    all edges, in any pieces and order:      clusters  connected components
                                             dedup.losers drops all but the first of each by (source, id)

Two documents whose sets of shingles have Jaccard similarity s agree in each permutation's minimum with probability s
(Broder 1997, https://doi.org/10.1109/SEQUEN.1997.666900), so in one of the bands with 1 - (1 - s**rows)**bands. Shingle
length and bands are FineWeb's (https://arxiv.org/abs/2406.17557). Why no library: rensa, the fastest, is no faster once
its Python lists are arrays again, and keys may not change with the version of a package: they decide who is dropped.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.native import kernel
from data_prep.shingles import ROLL, Hashes, Uint64s, ngram_hashes
from data_prep.texts import Int64s

Uint32s = npt.NDArray[np.uint32]

SHINGLE_WORDS = 5
PERMUTATIONS = 112


def bands_for(threshold: float, permutations: int = PERMUTATIONS) -> tuple[int, int]:
    """(bands, rows of each) that begin to find pairs at a Jaccard similarity near `threshold`: 0.72 -> (14, 8).

    They are nearest with (1 / bands)**(1 / rows), where about two thirds of the pairs are found (Leskovec, Rajaraman,
    Ullman: Mining of Massive Datasets, 3.4.2, http://www.mmds.org). A few permutations may be left out for that.
    """
    assert 0 < threshold < 1 <= permutations
    shapes = [(permutations // rows, rows) for rows in range(1, permutations + 1)]
    return min(shapes, key=lambda shape: abs((1 / shape[0]) ** (1 / shape[1]) - threshold))


def band_keys(words: Hashes, bands: int, rows: int) -> tuple[Uint64s, npt.NDArray[np.bool_]]:
    """A key for each document and band, and which documents have keys: those without a word have none.

    Shape (documents, bands) and (documents,). Documents are near-duplicates if they have the same key in the same band.
    A document of fewer than five words has one shingle, of all its words. Keys are spread evenly over their high bits.
    """
    minima = band_minima(words, bands * rows).reshape(len(words), bands, rows)
    keys = np.zeros((len(words), bands), dtype=np.uint64)
    for row in range(rows):
        keys = (keys ^ minima[:, :, row]) * ROLL
    return keys, words.counts > 0


def band_minima(words: Hashes, permutations: int) -> Uint32s:
    """The least value of each permutation over a document's shingles, (documents, permutations).

    The share of columns in which two documents agree estimates their Jaccard similarity.
    """
    shingles = ngram_hashes(words, SHINGLE_WORDS, shortest=1)
    factors, shifts = permutation_family(permutations)
    minima = np.full((len(words), permutations), 2**32 - 1, dtype=np.uint32)
    _take_minima(shingles.values, shingles.offsets, factors, shifts, minima)
    return minima


def permutation_family(permutations: int) -> tuple[Uint32s, Uint32s]:
    """Factors and shifts of the permutations x -> factor * x + shift mod 2**32, all factors odd.

    They are the upper halves of the outputs, in turn, of SplitMix64 (https://doi.org/10.1145/2714064.2660195) from
    seed 0, so a document's keys are the same in each version and on each machine.
    """
    state = np.arange(1, 2 * permutations + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    upper = ((state ^ (state >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)
    return upper[0::2] | np.uint32(1), upper[1::2].copy()


def pairs(keys: Uint64s, places: Int64s) -> Int64s:
    """Edges, (k, 2), from the first document with a key to each other one with it.

    Given are a band's keys, or a bucket of them, and their documents' places in the corpus.
    """
    order = np.lexsort((places, keys))
    keys, places = keys[order], places[order]
    as_before = np.concatenate([[False], keys[1:] == keys[:-1]])[: len(keys)]
    first_of = np.maximum.accumulate(np.where(as_before, 0, np.arange(len(keys))))
    edges: Int64s = np.stack([places[first_of], places], axis=1)[as_before]
    return edges


@dataclass(frozen=True, slots=True)
class Clusters:
    """Documents that edges connect, directly or over others."""

    places: Int64s
    """Ascending; only documents with an edge."""
    firsts: Int64s
    """The smallest place in the cluster of each."""

    @property
    def edges(self) -> Int64s:
        """One for each document but the first of its cluster; they make the same clusters as the original ones.

        So edges can be brought together a few buckets at a time, in memory bounded by documents and not by edges.
        """
        others = self.places != self.firsts
        return np.stack([self.firsts[others], self.places[others]], axis=1)

    @property
    def sizes(self) -> dict[int, int]:
        """How many clusters have how many documents."""
        sizes, counts = np.unique(np.unique(self.firsts, return_counts=True)[1], return_counts=True)
        return dict(zip(sizes.tolist(), counts.tolist(), strict=True))


def clusters(edges: Int64s) -> Clusters:
    """Connected components of edges (k, 2), whatever their order; 50 bytes an edge while it works."""
    places, ends = np.unique(edges, return_inverse=True)
    parents = np.arange(len(places))
    _union(parents, ends.reshape(edges.shape))
    return Clusters(places, places[parents])


@kernel
def _take_minima(shingles: Uint64s, offsets: Int64s, factors: Uint32s, shifts: Uint32s, minima: Uint32s) -> None:
    """32-bit lanes, which LLVM makes vectors of; four shingles at a time, or it would wait for memory."""
    for document in range(len(offsets) - 1):
        least = minima[document]
        at, end = offsets[document], offsets[document + 1]
        while at + 4 <= end:
            x0, x1 = np.uint32(shingles[at]), np.uint32(shingles[at + 1])
            x2, x3 = np.uint32(shingles[at + 2]), np.uint32(shingles[at + 3])
            for p in range(len(factors)):
                a, b = factors[p], shifts[p]
                v01 = min(np.uint32(a * x0 + b), np.uint32(a * x1 + b))
                v23 = min(np.uint32(a * x2 + b), np.uint32(a * x3 + b))
                least[p] = min(least[p], min(v01, v23))
            at += 4
        while at < end:
            x0 = np.uint32(shingles[at])
            for p in range(len(factors)):
                least[p] = min(least[p], np.uint32(factors[p] * x0 + shifts[p]))
            at += 1


@kernel
def _root(parents: Int64s, node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@kernel
def _union(parents: Int64s, edges: Int64s) -> None:
    """The smaller root becomes the parent, so a cluster's root is its first document in the end."""
    for edge in range(len(edges)):
        one, other = _root(parents, edges[edge, 0]), _root(parents, edges[edge, 1])
        parents[max(one, other)] = min(one, other)
    for node in range(len(parents)):
        parents[node] = parents[parents[node]]
