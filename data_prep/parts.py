"""The files between the stages of a build: everything in the scratch folder, and nothing of the corpus.

A unit's kept documents are written in parts of at most `unit_bytes` of text, so that later stages hold one part of a
50 GB file in memory. A record is written behind the files it stands for and into the same folder, so that syncing that
folder makes all of them last; files without a record do not exist.

    read/UNIT-PART.docs.arrow   id, text; in order of place              KEYS and HASH beside it
    dedup/BUCKET.npy            places of the duplicates to drop
    sample/UNIT-PART.docs.arrow text for the tokenizer
    encode/UNIT-PART.tokens     token stream, sorted by shuffle key      INDEX, ids and tokens a cell beside it
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.config import CorpusConfig
from data_prep.files import atomic_file

KEYS = np.dtype(
    [("shuffle", "<u8"), ("heldout", "<u8"), ("sample", "<u8"), ("high", "<u8"), ("low", "<u8"), ("size", "<i8")]
)
"""A document of a part, by row: its keys, content hash and UTF-8 bytes."""
INDEX = np.dtype([("shuffle", "<u8"), ("high", "<u8"), ("low", "<u8"), ("start", "<i8"), ("length", "<i8")])
"""An encoded document, sorted by shuffle key: where its tokens are, end of text included."""

DOCUMENTS = pa.schema([("id", pa.string()), ("text", pa.large_binary())])
IDS = pa.schema([("id", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some of a unit's kept documents."""

    name: str
    source: int
    """Position of the source in the config."""
    num_documents: int
    text_bytes: int


@dataclass(frozen=True, kw_only=True)
class ReadRecord:
    """What came of a unit."""

    parts: tuple[Part, ...]
    documents_read: int
    dropped: dict[str, int]
    edited: dict[str, int] = field(default_factory=dict)
    """Edit -> documents it took lines out of, of those that are kept."""
    pii: dict[str, int] = field(default_factory=dict)
    """Kind -> how many were found."""


@dataclass(frozen=True, kw_only=True)
class DedupRecord:
    dropped_documents: dict[int, int]
    """Source position -> documents."""
    dropped_bytes: dict[int, int]


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    text_bytes: int


@dataclass(frozen=True, kw_only=True)
class EncodeRecord:
    """What came of a part."""

    agreed: bool
    """Whether both tokenizers gave the same tokens wherever they were compared."""
    num_documents: int
    text_bytes: int
    num_tokens: int
    heldout_documents: int


@dataclass(frozen=True)
class Work:
    """Where a build works and what it is to make; goes to every task."""

    scratch: Path
    output: Path
    config: CorpusConfig

    def read(self, part: str, suffix: str) -> Path:
        return self.scratch / "read" / f"{part}.{suffix}"

    def drops(self, bucket: int) -> Path:
        return self.scratch / "dedup" / f"{bucket:06d}.npy"

    def sample(self, part: str) -> Path:
        return self.scratch / "sample" / f"{part}.docs.arrow"

    def encoded(self, backend: str, part: str, suffix: str) -> Path:
        return self.scratch / f"encode-{backend}" / f"{part}.{suffix}"

    @property
    def tokenizer(self) -> Path:
        return self.output / "tokenizer.json"


def save_array(path: Path, array: npt.NDArray[np.generic]) -> None:
    with atomic_file(path, sync_name=False) as file:
        np.save(file, array, allow_pickle=False)


def load_array(path: Path) -> npt.NDArray[np.void]:
    """The array in memory. Files are opened for the moment only, so that a build of many parts runs into no limit."""
    return np.asarray(np.load(path, allow_pickle=False))


def save_raw(path: Path, array: npt.NDArray[np.generic]) -> None:
    """The array's little-endian bytes and nothing else, so that a reader can seek in them."""
    with atomic_file(path, sync_name=False) as file:
        file.write(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)


def load_raw(path: Path, dtype: npt.DTypeLike, first: int, count: int) -> npt.NDArray[np.generic]:
    """`count` items of a raw file from item `first` on."""
    return np.fromfile(path, dtype=dtype, count=count, offset=first * np.dtype(dtype).itemsize)


def save_table(path: Path, table: pa.Table) -> None:
    """One record batch without compression: a reader maps it and takes rows out of it without reading the rest."""
    with atomic_file(path, sync_name=False) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def load_table(path: Path) -> pa.Table:
    """The table, mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
