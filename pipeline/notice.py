"""Where long work looks whether it was told to stop: between its parts, and by an exception."""

from collections.abc import Callable
from typing import Any

from cluster.signals import StopNotice
from pipeline.errors import StoppedOnNotice

GoOn = Callable[..., Any]
"""To be called between the parts of long work, with whatever that tells of its progress. Raises StoppedOnNotice."""


def go_on(*_: object) -> None:
    """Nobody listens for a notice."""


def unless_told(notice: StopNotice, doing: str) -> GoOn:
    """Work goes on until a notice comes. `doing`: what is stopped then, to be done again by the next start."""

    def go_on(*_: object) -> None:
        if notice.requested():
            raise StoppedOnNotice(f"stopped on notice while {doing}; run it again and it goes on")

    return go_on
