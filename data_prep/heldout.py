"""Which documents are held out: a hash of the id decides, so a document stays held out when others come or go.

The bound is the largest (held-out key, content hash) that is held out. It is the fraction's, but where that would hold
out nothing or everything of a source with two or more different documents, it is moved to the nearest document.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Bound = tuple[int, int, int] | None
"""(held-out key, high and low half of the content hash); None holds out nothing."""
Extremes = tuple[tuple[int, int, int], ...]


def held_out(keys: npt.NDArray[np.void], bound: Bound) -> npt.NDArray[np.bool_]:
    """Which rows are held out; `keys` has the fields `heldout`, `high` and `low`."""
    if bound is None:
        return np.zeros(len(keys), dtype=bool)
    key, high, low = (np.uint64(value) for value in bound)
    below = (keys["high"] < high) | ((keys["high"] == high) & (keys["low"] <= low))
    return np.asarray((keys["heldout"] < key) | ((keys["heldout"] == key) & below))


def extremes(keys: npt.NDArray[np.void]) -> Extremes:
    """The smallest, second largest and largest of the different keys of some documents: all that a bound asks about."""
    distinct = np.unique(keys[["heldout", "high", "low"]])
    return tuple(sorted({(int(key), int(high), int(low)) for key, high, low in (*distinct[:1], *distinct[-2:])}))


def find_bound(fraction: float, parts: Iterable[Extremes]) -> Bound:
    """The bound of one source, given the extremes of its documents in parts."""
    if fraction <= 0:
        return None
    limit = min(int(fraction * 2**64), 2**64 - 1)
    by_fraction = (limit, 2**64 - 1, 2**64 - 1)
    seen = sorted({one for part in parts for one in part})
    if seen and seen[0] <= by_fraction < seen[-1]:
        return by_fraction
    if len(seen) < 2:
        return None
    return seen[0] if by_fraction < seen[0] else seen[-2]
