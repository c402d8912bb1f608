"""Best-fit packing: no document is cut unless it is longer than a sequence.

Cut documents teach a model to go on from what it cannot see, and more of them are cut the longer they are: Ding et al.
2024, "Fewer Truncations Improve Language Modeling" (https://arxiv.org/abs/2404.10830). As there, documents go, longest
first, into the row that they leave the least room in, and a row is opened where none has room. Unlike there, this is
done for each cell by itself, so that memory is bounded, and the rows of a cell are then spread over it.

    document longer than a row  ->  whole rows  +  a rest, packed like a document
    rows of a cell, spread          |c c c c|a a b -|c c c c|c d d -|e e - -|      -: padding

Rows come out of the packing longest document first. They are not put in the order of their earliest documents, as rows
of many short ones would then come first (a correlation of 0.4), but dealt out evenly whatever is in them.
"""

import numpy as np

from data_prep.native import kernel
from data_prep.pack import Int64s, Pieces

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio, odd: its multiples modulo 2**64 differ, and any run of them is spread over the range."""


def best_fit(lengths: Int64s, sequence_length: int) -> tuple[Pieces, int]:
    """Where the documents of a cell lie in its rows, and how many tokens those have, padding included.

    `lengths`: tokens of each document in shuffled order, end-of-text included, so none is 0.
    """
    whole, rest = np.divmod(lengths, sequence_length)
    loose = np.flatnonzero(rest)
    longest_first = loose[np.argsort(-rest[loose], kind="stable")]
    bins, num_bins = fit(rest[longest_first], sequence_length)

    in_whole = np.repeat(np.arange(len(lengths)), whole)
    nth_whole = np.arange(len(in_whole)) - np.repeat(np.cumsum(whole) - whole, whole)
    document = np.concatenate([in_whole, longest_first])
    offset = np.concatenate([nth_whole, whole[longest_first]]) * sequence_length
    length = np.minimum(lengths[document] - offset, sequence_length)
    num_rows = len(in_whole) + num_bins
    row = spread(num_rows)[np.concatenate([np.arange(len(in_whole)), len(in_whole) + bins])]

    order = np.lexsort((document, row))
    document, offset, length, row = document[order], offset[order], length[order], row[order]
    before = np.cumsum(length) - length
    opens_row = np.diff(row, prepend=-1) > 0
    start = row * sequence_length + before - before[opens_row][np.cumsum(opens_row) - 1]
    return Pieces(document=document, offset=offset, start=start, length=length), num_rows * sequence_length


def spread(num_rows: int) -> Int64s:
    """Where each of the rows goes: neighbours far from each other, each stretch of them all over the cell."""
    place = np.empty(num_rows, dtype=np.int64)
    place[np.argsort(np.arange(num_rows, dtype=np.uint64) * GOLDEN)] = np.arange(num_rows)
    return place


@kernel
def fit(lengths: Int64s, room: int) -> tuple[Int64s, int]:
    """The bin of each piece, given longest first, and how many bins there are. A piece has 1 to `room` tokens.

    A tree over 0..room counts the open bins by what is free in them, so that the fullest that has room is found in
    log2(room) steps; among equals the bin that was touched last is taken.
    """
    size = 1
    while size <= room:
        size *= 2
    open_bins = np.zeros(2 * size, dtype=np.int64)
    newest = np.full(room + 1, -1, dtype=np.int64)  # by what is free: a stack of bins
    below = np.empty(len(lengths), dtype=np.int64)  # the next bin in its stack
    bin_of = np.empty(len(lengths), dtype=np.int64)
    num_bins = 0
    for piece in range(len(lengths)):
        node = size + lengths[piece]
        if not open_bins[node]:
            while node > 1 and (node % 2 or not open_bins[node + 1]):
                node //= 2
            node += 1  # the root's neighbour, 2, says that there is none
        if node == 2:
            chosen, free = num_bins, room
            num_bins += 1
        else:
            while node < size:
                node = 2 * node if open_bins[2 * node] else 2 * node + 1
            free = node - size
            chosen = newest[free]
            newest[free] = below[chosen]
            while node:
                open_bins[node] -= 1
                node //= 2
        free -= lengths[piece]
        bin_of[piece] = chosen
        below[chosen], newest[free] = newest[free], chosen
        node = size + free
        while node:
            open_bins[node] += 1
            node //= 2
    return bin_of, num_bins
