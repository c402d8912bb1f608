"""Position: all the state that the data order has."""

from dataclasses import dataclass

ORDER_VERSION = 1
"""Raised whenever the same (manifest, seed, position) would give another sequence."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Sequences that a run leaves out, because they harmed it: [first, first + count) of the order as it would be
    without any window."""

    first: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run stands in its data. A checkpoint stores one."""

    manifest_digest: str
    order_version: int
    seed: int
    next_sequence: int
    """The first position of the next step: how many sequences the steps before it took."""
    skipped: tuple[Window, ...] = ()
    """The windows that were left out on the way here, ascending."""
