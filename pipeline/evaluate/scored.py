"""What an evaluation has scored so far, so that one that was stopped or killed goes on behind it.

    evals/step-00000500.heldout.scored   a line a batch: {"nlls": [...], "chain": sha256 of the line before's and these}

The first line's chain begins with the key: the digest of all that the numbers depend on, and of how they are batched.
So reading ends at a torn line, at a damaged one, and at the first one of another checkpoint, other texts or another
machine; what follows is scored anew.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from data_prep.files import digest


class Scored:
    """The batches that are scored already, and a place for the next ones; for one process at a time."""

    def __init__(self, path: Path, key: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._chain = path, key
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self.known: list[list[float]] = []
        """The summed nll of each window in nats, batch by batch, as they were computed."""
        with path.open("rb") as file:
            good = 0
            for line in file:
                nlls, chain = _parsed(line)
                if chain != _next_chain(self._chain, nlls):
                    break
                self.known.append(nlls)
                self._chain = chain
                good += len(line)
        os.ftruncate(self._descriptor, good)

    def keep(self, nlls: Sequence[float]) -> None:
        """Adds the next batch, in one write. Floats are stored so that reading gives the same bits, and NaN as NaN."""
        self._chain = _next_chain(self._chain, nlls)
        data = json.dumps({"nlls": list(nlls), "chain": self._chain}).encode() + b"\n"
        written = os.write(self._descriptor, data)
        if written < len(data):
            raise OSError(f"{self._path}: only {written} of {len(data)} bytes were written; is the disk full?")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


def _next_chain(chain: str, nlls: Sequence[float]) -> str:
    return digest([chain, [nll.hex() for nll in nlls]])


def _parsed(line: bytes) -> tuple[list[float], str]:
    """A line's numbers and chain; a chain that fits nothing if it is torn or none of ours."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else {}
        return [float(nll) for nll in record["nlls"]], str(record["chain"])
    except (ValueError, KeyError, TypeError):
        return [], ""
