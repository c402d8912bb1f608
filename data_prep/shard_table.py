"""The shards of a manifest as one plain table, because a million records take half a minute to parse and validate.

    shards.npy    |source, number, counts, bytes, sha256, docs_sha256|...     a row a shard, 92 bytes, no pickle

The file is hashed as a whole and mapped into memory; a row becomes a `ShardRecord` when somebody asks for it.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from data_prep.files import sha256_file
from data_prep.manifest import ShardRecord, shard_name

COUNTS = ("number", "num_sequences", "num_documents", "cut_documents", "size_bytes")
DIGESTS = ("sha256", "docs_sha256")
SHARD = np.dtype(
    [
        ("source", "<u4"),
        *((name, "<u8" if name == "size_bytes" else "<u4") for name in COUNTS),
        *((name, "u1", (32,)) for name in DIGESTS),
    ]
)
"""A shard: its source's place in the manifest, and the fields of its record but for the names, which follow."""


class Shards(Sequence[ShardRecord]):
    """A table's rows as records, made one by one when asked for. A slice is a view."""

    def __init__(self, table: npt.NDArray[np.void], sources: tuple[str, ...]) -> None:
        assert table.dtype == SHARD
        self.table = table
        self.sources = sources

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, at: int) -> ShardRecord: ...
    @overload
    def __getitem__(self, at: slice) -> "Shards": ...
    def __getitem__(self, at: int | slice) -> "ShardRecord | Shards":
        if isinstance(at, slice):
            return Shards(self.table[at], self.sources)
        row = self.table[at]
        source, number = self.sources[int(row["source"])], int(row["number"])
        return ShardRecord(
            name=shard_name(source, number),
            source=source,
            number=number,
            num_sequences=int(row["num_sequences"]),
            num_documents=int(row["num_documents"]),
            cut_documents=int(row["cut_documents"]),
            size_bytes=int(row["size_bytes"]),
            sha256=row["sha256"].tobytes().hex(),
            docs_sha256=row["docs_sha256"].tobytes().hex(),
        )

    @property
    def sha256(self) -> str:
        """Of the table's file."""
        return hashlib.sha256(self.file_bytes()).hexdigest()

    def file_bytes(self) -> bytes:
        file = io.BytesIO()
        np.save(file, self.table, allow_pickle=False)
        return file.getvalue()


def shards_of(records: Iterable[ShardRecord], sources: tuple[str, ...]) -> Shards:
    """The table of these records, in their order. `sources` are the names in the manifest's order."""
    places = {name: place for place, name in enumerate(sources)}
    rows = [
        (
            places[one.source],
            *(getattr(one, name) for name in COUNTS),
            *(np.frombuffer(bytes.fromhex(getattr(one, name)), dtype=np.uint8) for name in DIGESTS),
        )
        for one in records
    ]
    return Shards(np.array(rows, dtype=SHARD), sources)


def load_shards(path: Path, sha256: str, sources: tuple[str, ...]) -> Shards:
    """The table, mapped. Raises ValueError if its bytes are not those with this digest."""
    if not path.is_file() or sha256_file(path) != sha256:
        raise ValueError(f"{path} is missing or does not match the manifest; build the corpus again")
    return Shards(np.load(path, mmap_mode="r", allow_pickle=False), sources)
