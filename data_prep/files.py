"""Bytes first, their record last: atomic writes, canonical JSON and digests.

Every record in headrace is a frozen dataclass, stored as canonical JSON beside the bytes that it describes. Canonical
means sorted keys and no spaces, so that equal values have equal bytes and therefore equal digests.
"""

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

if TYPE_CHECKING:
    from pydantic import TypeAdapter

TEMPORARY_PREFIX = ".writing-"
"""Files of such a name were left behind by a killed writer and mean nothing."""
Record = TypeVar("Record")


def plain(value: Any) -> Any:
    """A dataclass as dicts and lists; anything else as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces. Raises ValueError on NaN and infinity, which JSON does not have."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(value: Any) -> str:
    """The sha256, in hex, of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_file(path: Path) -> str:
    """The sha256, in hex, of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes renames inside a folder survive a power cut."""
    sync_file(folder)


def sync_names(folder: Path) -> None:
    """Makes the names of all files in a folder, and in those below it, survive a power cut."""
    for path, _, _ in os.walk(folder):
        sync_folder(Path(path))


def sync_file(path: Path) -> None:
    """Makes what was written to a file survive a power cut, whoever wrote it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A file to write that appears at `path` whole or not at all, and by then is on disk, also if the power fails.

    Temporary name in the same folder, fsync, rename, fsync of the folder. Without `sync`, it is for the system to say
    when the bytes come to disk: enough against the end of a process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY_PREFIX)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            if sync:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Writes the file whole or not at all."""
    with atomic_file(path) as file:
        file.write(data)


def write_record(path: Path, record: Any) -> None:
    """Stores a record as readable canonical JSON, atomically."""
    text = json.dumps(plain(record), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")


def read_record(cls: type[Record], path: Path) -> Record:
    """Loads and validates a record. Raises FileNotFoundError, or ValueError naming the file if it is no such record."""
    return parse_record(cls, path.read_bytes(), str(path))


def parse_record(cls: type[Record], data: bytes, name: str) -> Record:
    """The same for a record's bytes, which the error calls by `name`."""
    from pydantic import ValidationError

    try:
        record: Record = _adapter(cast(Any, cls)).validate_json(data)
        return record
    except ValidationError as error:
        raise ValueError(f"{name} is not a {cls.__name__} record: {error.errors()[0]['msg']}") from error


@lru_cache(maxsize=64)
def _adapter(cls: Any) -> "TypeAdapter[Any]":
    """Making one takes a millisecond, reading a record by it some microseconds."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)
