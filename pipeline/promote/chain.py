"""The registry's journal: one entry a line, each holding the digest of the one before it.

    {"previous": "",     ..., "digest": "9f1c.."}
    {"previous": "9f1c..", ..., "digest": "04ab.."}      any change to a line breaks its digest, and those after it

A line counts once its newline is there. What follows the last newline is an append that a crash cut short: it was
acknowledged to nobody, so readers pass over it and the next append cuts it off. Any other damage is an error that names
the line. What the chain alone cannot show, the removal of its last lines, the alias files show: they name the entry
that they came from. Somebody who rewrites everything is not found out; for that, keep the last digest elsewhere.
"""

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from data_prep.files import canonical_json, digest, sync_folder
from pipeline.errors import PipelineError
from pipeline.promote.decision import Decision

JOURNAL_NAME = "journal.jsonl"


class BrokenRegistry(PipelineError):
    """The registry's files contradict themselves or each other; the message names the file and the line."""


@dataclass(frozen=True, kw_only=True)
class CheckpointRef:
    digest: str
    path: str
    """Relative to the workspace, with forward slashes."""
    run: str
    step: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    kind: Literal["promote", "refuse", "rollback"]
    alias: str
    generation: int
    """The alias's generation after this entry; a refusal leaves it as it was."""
    checkpoint: CheckpointRef
    """The one judged; in a rollback, the one that the alias goes back to."""
    decision: Decision | None
    """Whole, with the digests of both reports; None in a rollback."""
    reason: str
    """A rollback's, in the words of whoever asked for it."""
    time: str
    """UTC, ISO 8601."""
    previous: str
    """Digest of the entry before; empty in the first."""
    digest: str = ""
    """sha256 of this entry with an empty digest."""


def sealed(entry: Entry) -> Entry:
    bare = replace(entry, digest="")
    return replace(bare, digest=digest(bare))


def read_chain(folder: Path) -> tuple[Entry, ...]:
    """All entries, their chain checked. Raises BrokenRegistry."""
    path = folder / JOURNAL_NAME
    entries: list[Entry] = []
    for number, line in enumerate(_whole_lines(path), start=1):
        entry = _parse(line, f"{path}, line {number}")
        expected = entries[-1].digest if entries else ""
        if entry.previous != expected:
            raise BrokenRegistry(
                f"{path}, line {number} does not follow the line before it; lines are missing or moved"
            )
        entries.append(entry)
    return tuple(entries)


def append(folder: Path, entry: Entry) -> None:
    """Adds a sealed entry, and returns once it would survive a power cut. The caller holds the registry's lock."""
    assert entry.digest, "seal the entry first"
    path = folder / JOURNAL_NAME
    with path.open("ab") as file:
        file.truncate(sum(len(line) + 1 for line in _whole_lines(path)))
        file.write(canonical_json(entry) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def _whole_lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


def _parse(line: bytes, where: str) -> Entry:
    from pydantic import ValidationError

    try:
        raw: Mapping[str, Any] = json.loads(line)
        # Over the line as it stands, so that a later version with more fields still verifies old lines.
        intact = digest({**raw, "digest": ""}) == raw["digest"]
    except (ValueError, TypeError, KeyError) as error:
        raise BrokenRegistry(f"{where} is not a registry entry; restore the file from a copy") from error
    if not intact:
        raise BrokenRegistry(f"{where} was changed after it was written; restore the file from a copy")
    try:
        entry: Entry = _adapter().validate_python(raw)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(map(str, found["loc"]))
        raise BrokenRegistry(f"{where} is not an entry that this version reads: {place}: {found['msg']}") from error
    return entry


@functools.cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Entry)
