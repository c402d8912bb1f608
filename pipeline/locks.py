"""File locks, which the system lets go of however their holder ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import Mistake


@contextmanager
def locked(path: Path, *, busy: str | None = None) -> Iterator[None]:
    """Holds the lock file. If another process does: raises Mistake with the text `busy`, or waits if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise Mistake(str(busy)) from None
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file, on this machine or on another that the file system lets see locks."""
    try:
        with path.open("rb") as lock:
            # Shared, so that a descriptor for reading is enough, also on NFS. Whoever wants it in this instant finds it
            # busy: it is let go at once.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
