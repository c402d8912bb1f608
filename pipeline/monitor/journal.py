"""The run's journal: `metrics.jsonl`, one JSON object a line, only ever appended to.

    {"kind": "start", ...}  {"kind": "step", "step": 1, "loss": ...}  ...  {"kind": "resume", "step": 50}  ...

Every other view (wandb, the console, the summary) is computed from this file. A run that was killed and resumed has
trained some steps twice; both are in the file, and `unbroken` gives the one curve that led to the present weights.

Several processes may append to one journal at once (training, an evaluation, the scheduler), and each may die at any
instant. So each line is one write to an O_APPEND descriptor, which the kernel does not mix with another's; and whoever
finds a torn line at the end begins a new one, so that a torn line costs itself and nothing else.

A power cut costs step lines at most, and none that a checkpoint stands on: all other lines are on disk once they are
written, and `to_disk` comes before each commit.
"""

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from data_prep.files import plain, sync_file, sync_folder

JOURNAL_NAME = "metrics.jsonl"

KINDS = ("start", "resume", "step", "checkpoint", "upload", "eval", "guard", "told", "notice", "promote", "end")

Line = dict[str, Any]


class Journal:
    """Appends lines to one file. Opening creates the file and its folder; nothing is ever rewritten."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        # Read access too: to see whether the last line is whole.
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        if os.fstat(self._descriptor).st_size == 0:
            sync_folder(path.parent)

    def append(self, kind: str, **figures: Any) -> None:
        """Adds `{"kind": kind, "time": now, **figures}`; `time` is in seconds since 1970.

        NaN and infinity, at any depth, become null, and the list `nonfinite` names where they were. Waits for the disk
        with all but steps. Raises OSError if the line could not be written whole (a full disk).
        """
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not a kind of journal line; kinds are {', '.join(KINDS)}")
        self._write(encode({"kind": kind, "time": round(time.time(), 3), **figures}) + b"\n")
        if kind != "step":
            os.fsync(self._descriptor)

    def append_lines(self, lines: bytes) -> None:
        """Adds whole lines as another journal has them. Waits for the disk; raises OSError as `append`."""
        self._write(lines)
        os.fsync(self._descriptor)

    def _write(self, data: bytes) -> None:
        if self._torn():
            data = b"\n" + data
        written = os.write(self._descriptor, data)
        if written < len(data):
            raise OSError(f"{self.path}: only {written} of {len(data)} bytes were written; is the disk full?")

    def _torn(self) -> bool:
        """True if the file does not end with a line's end.

        Also, rarely, while another process is in the middle of a write, which ext4 shows page by page. Our line then
        still comes after the whole of theirs, with an empty line between, which readers pass over.
        """
        size = os.fstat(self._descriptor).st_size
        return size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"

    def close(self) -> None:
        """Makes the lines survive a power cut, and closes the file. May be called twice."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def to_disk(journal: Path) -> None:
    """Makes the lines of a journal survive a power cut, whoever wrote them; nothing if there is none."""
    if journal.exists():
        sync_file(journal)


def encode(line: Mapping[str, Any]) -> bytes:
    """One line's JSON, without its end. Keys keep their order: `kind` first reads best."""
    nonfinite: list[str] = []
    clean = {key: _without_nonfinite(value, key, nonfinite) for key, value in line.items()}
    if nonfinite:
        clean["nonfinite"] = nonfinite
    return json.dumps(clean, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _without_nonfinite(value: Any, name: str, nonfinite: list[str]) -> Any:
    """The value with null for each NaN and infinity, whose dotted names are added to the list."""
    value = plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite.append(name)
        return None
    if isinstance(value, Mapping):
        return {str(key): _without_nonfinite(item, f"{name}.{key}", nonfinite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(item, f"{name}.{index}", nonfinite) for index, item in enumerate(value)]
    return value


def read_journal(path: Path) -> list[Line]:
    """All whole lines in the order written; an absent file is an empty journal, and torn lines are passed over."""
    return read_from(path, 0)[0]


def read_from(path: Path, offset: int) -> tuple[list[Line], int]:
    """The whole lines that begin at or after a byte offset, and the offset after them, from which to read on."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n") + 1  # what follows the last newline is torn, or still being written
    lines = (_parse(text) for text in data[:end].split(b"\n"))
    return [line for line in lines if line is not None], offset + end


def _parse(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:  # a torn line; bad UTF-8 is a ValueError too
        return None
    return line if isinstance(line, dict) and isinstance(line.get("kind"), str) else None


def unbroken(lines: Iterable[Mapping[str, Any]]) -> list[Line]:
    """The step lines that led to the present weights: steps strictly ascending, later lines win.

    A `resume` line's `step` is the last step that the resumed checkpoint holds: step lines above it are rewound. A step
    line also rewinds any at or above its own step, which covers a rollback that wrote no `resume`.
    """
    curve: list[Line] = []
    for line in lines:
        step = line.get("step")
        if not isinstance(step, int):
            continue
        if line["kind"] == "resume":
            _rewind(curve, step)
        elif line["kind"] == "step":
            _rewind(curve, step - 1)
            curve.append(dict(line))
    return curve


def _rewind(curve: list[Line], step: int) -> None:
    while curve and curve[-1]["step"] > step:
        curve.pop()
