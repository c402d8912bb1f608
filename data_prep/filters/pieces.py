"""Lines and paragraphs of a text, and which of them repeat. As with words, the last text's lines are kept."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt


@lru_cache(maxsize=1)
def lines_of(text: str) -> Sequence[str]:
    """The lines that are not blank."""
    return [line for line in text.split("\n") if line and not line.isspace()]


def paragraphs_of(text: str) -> Sequence[str]:
    """What stands between blank lines."""
    return [part.strip("\n") for part in text.split("\n\n") if part and part != "\n"]


def num_repeats(pieces: Sequence[str]) -> tuple[int, int]:
    """(pieces, their characters) that are there again: the first of equal ones does not count."""
    if len(set(pieces)) == len(pieces):
        return 0, 0
    counts: Mapping[str, int] = Counter(pieces)
    return len(pieces) - len(counts), sum(len(piece) * (count - 1) for piece, count in counts.items() if count > 1)


def line_lengths(text: str) -> npt.NDArray[np.int64]:
    """Characters of each line, line ends not counted; without making a string of each line."""
    wide = not text.isascii()
    characters = np.frombuffer(text.encode("utf-32-le" if wide else "ascii"), dtype="<u4" if wide else "u1")
    ends = np.flatnonzero(characters == ord("\n"))
    bounds = np.empty(len(ends) + 2, dtype=np.int64)
    bounds[0], bounds[1:-1], bounds[-1] = -1, ends, len(characters)
    return bounds[1:] - bounds[:-1] - 1
