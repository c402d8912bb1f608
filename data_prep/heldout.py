"""Which documents are held out: a hash of the id decides, so a document stays held out when others come or go.

The bound is the largest (held-out key, content hash) that is held out. It is the fraction's, but where that would hold
out nothing or everything of a source with two or more different documents, it is moved to the nearest document.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Bound = tuple[int, int, int] | None
"""(held-out key, high and low half of the content hash); None holds out nothing."""


def held_out(keys: npt.NDArray[np.void], bound: Bound) -> npt.NDArray[np.bool_]:
    """Which rows are held out; `keys` has the fields `heldout`, `high` and `low`."""
    if bound is None:
        return np.zeros(len(keys), dtype=bool)
    key, high, low = (np.uint64(value) for value in bound)
    below = (keys["high"] < high) | ((keys["high"] == high) & (keys["low"] <= low))
    return np.asarray((keys["heldout"] < key) | ((keys["heldout"] == key) & below))


def find_bound(fraction: float, parts: Iterable[npt.NDArray[np.void]]) -> Bound:
    """The bound of one source, given the keys of its documents in parts. Looks at as few parts as decide it."""
    if fraction <= 0:
        return None
    limit = min(int(fraction * 2**64), 2**64 - 1)
    by_fraction = (limit, 2**64 - 1, 2**64 - 1)
    extremes: list[tuple[int, int, int]] = []  # smallest, second largest and largest of the different keys so far
    for keys in parts:
        distinct = np.unique(keys[["heldout", "high", "low"]])
        ends = np.concatenate([distinct[:1], distinct[-2:]])
        seen = sorted({*extremes, *((int(key), int(high), int(low)) for key, high, low in ends)})
        extremes = [*seen[:1], *seen[1:][-2:]]
        if extremes and extremes[0] <= by_fraction < extremes[-1]:
            return by_fraction
    if len(extremes) < 2:
        return None
    return extremes[0] if by_fraction < extremes[0] else extremes[-2]
