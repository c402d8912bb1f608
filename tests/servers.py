"""A server in a process of its own, as the tests' stores are."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def serving(script: str) -> Iterator[int]:
    """Runs a script that prints the port that it listens on and ends with its standard input; gives the port."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.communicate(timeout=30)


def files_below(folder: Path, put: Callable[[str, bytes], None]) -> None:
    """Puts every file below a folder under its path in it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            put(str(path.relative_to(folder)), path.read_bytes())
