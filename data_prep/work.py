"""The work folder: where a build keeps what lies between its stages.

    STAGE/KEY.SUFFIX, STAGE/KEY-PART.SUFFIX   files        STAGE/KEY.json   the record, written behind them

Files appear whole or not at all, by rename, but are not synced one by one: a sync costs more than most tasks. So they
survive the end of any process but not that of the machine. For that, a record lists its files' digests, and a build
that finds the machine started anew checks them all before it trusts any.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from data_prep.config import CorpusConfig, SourceConfig
from data_prep.files import TEMPORARY_PREFIX, atomic_file, digest, plain, read_record, write_atomic
from data_prep.parts import Part, SelectRecord
from data_prep.texts import Texts, texts_from_arrow

Record = TypeVar("Record")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
BOOT_NAME = "machine"
"""File of the work folder: the boot of the machine that wrote there last."""


@dataclass(frozen=True)
class Done(Generic[Record]):
    """What is stored of a task."""

    record: Record
    files: dict[str, str]
    """File of the stage's folder -> xxh3 of its bytes."""


class Hashed:
    """A file that is written from its beginning to its end, and the xxh3 of what was written; it has what numpy and
    Arrow ask of a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hasher = xxhash.xxh3_64()
        self.closed = False

    def write(self, data: Any) -> int:
        self._hasher.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> str:
        return self._hasher.hexdigest()


@dataclass(frozen=True)
class Work:
    """Where a build works and what it is to make; goes to every task. Names are `stage/key`."""

    root: Path
    output: Path
    config: CorpusConfig
    tasks_digest: str = ""
    """Of the evaluation tasks' data; empty if nothing is looked for."""
    written: dict[str, str] = field(default_factory=dict, compare=False)
    """What this process wrote and no record covers yet: file -> xxh3."""

    def file(self, name: str, suffix: str) -> Path:
        return self.root / f"{name}.{suffix}"

    def source(self, part: Part) -> SourceConfig:
        return self.config.sources[part.source]

    @property
    def contamination(self) -> Path | None:
        """Where the index of the evaluation tasks' data is, if they are looked for."""
        if self.config.decontaminate is None:
            return None
        return self.root / "contamination" / digest([self.tasks_digest, self.config.decontaminate.ngram])[:32]

    @contextmanager
    def writing(self, name: str, suffix: str) -> Iterator[BinaryIO]:
        path = self.file(name, suffix)
        with atomic_file(path, sync=False) as file:
            hashed = Hashed(file)
            yield cast(BinaryIO, hashed)
        self.written[f"{name}.{suffix}"] = hashed.digest()

    def save_array(self, name: str, suffix: str, array: npt.NDArray[Any]) -> None:
        with self.writing(name, suffix) as file:
            np.save(file, array, allow_pickle=False)

    def load_array(self, name: str, suffix: str) -> npt.NDArray[Any]:
        """The array, mapped read-only: a stretch of it costs no more than itself."""
        return np.asarray(np.load(self.file(name, suffix), mmap_mode="r", allow_pickle=False))

    def save_raw(self, name: str, suffix: str, array: npt.NDArray[Any]) -> None:
        """The array's little-endian bytes and nothing else, so that a reader can seek in them."""
        with self.writing(name, suffix) as file:
            file.write(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)

    def read_raw(self, name: str, suffix: str, out: npt.NDArray[Any], first: int = 0) -> None:
        """Fills a contiguous array with the items of a raw file from item `first` on."""
        descriptor = os.open(f"{self.root}/{name}.{suffix}", os.O_RDONLY)
        try:
            size = os.preadv(descriptor, [out.view(np.uint8).data], first * out.itemsize)
        finally:
            os.close(descriptor)
        if size != out.nbytes:
            raise OSError(errno.EIO, "it ends early", f"{self.root}/{name}.{suffix}")

    def save_table(self, name: str, suffix: str, table: pa.Table) -> None:
        """One record batch without compression: a reader maps it and takes rows out of it without reading the rest."""
        with self.writing(name, suffix) as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table.combine_chunks())

    def load_table(self, name: str, suffix: str) -> pa.Table:
        """The table, mapped into memory."""
        return pa.ipc.open_file(pa.memory_map(str(self.file(name, suffix)))).read_all()

    def load_texts(self, name: str) -> Texts:
        """The texts of `docs.arrow` in place."""
        return texts_from_arrow(self.load_table(name, "docs.arrow")["text"].combine_chunks())

    def save_record(self, name: str, record: Record) -> Record:
        """Stores the record of a task, which makes what it wrote exist. Gives the record."""
        covered = [file for file in self.written if file.startswith((f"{name}.", f"{name}-"))]
        files = {file.partition("/")[2]: self.written.pop(file) for file in covered}
        data = json.dumps({"files": files, "record": plain(record)}, sort_keys=True, ensure_ascii=False)
        with atomic_file(self.file(name, "json"), sync=False) as file:
            file.write(data.encode())
        return record

    def read_record(self, kind: type[Record], name: str) -> Record:
        """The record of a task. Raises FileNotFoundError if it is not done."""
        done = read_record(Done[kind], self.file(name, "json"))  # type: ignore[valid-type]
        record: Record = done.record
        return record

    def has_texts_of(self, selected: SelectRecord) -> bool:
        """Whether the texts that were chosen from are there; they have a record of their own."""
        return all(self.file(part.docs.partition("-")[0], "json").exists() for part in selected.parts)

    def write_parts(self, parts: Sequence[Part]) -> str:
        """Stores a list that many tasks need, so that each is told its name only; see `read_parts`."""
        values = [asdict(part) for part in parts]
        name = f"parts/{digest(values)[:32]}"
        write_atomic(self.file(name, "json"), json.dumps(values).encode())
        return name

    def read_parts(self, name: str) -> tuple[Part, ...]:
        return _read_parts(self.file(name, "json"))


@lru_cache(maxsize=4)
def _read_parts(path: Path) -> tuple[Part, ...]:
    return tuple(Part(**values) for values in json.loads(path.read_bytes()))


def hash_of(path: Path) -> str:
    """xxh3 of a file's bytes: it finds what a crash tore, at memory speed; it is no proof against malice."""
    hasher = xxhash.xxh3_64()
    with path.open("rb", buffering=0) as file:
        while data := file.read(1 << 20):
            hasher.update(data)
    return hasher.hexdigest()


def distrust_after_restart(root: Path) -> None:
    """Removes the records whose files are not whole, if the machine was started anew since they were written."""
    boot, known = BOOT_ID.read_text().strip() if BOOT_ID.exists() else "", root / BOOT_NAME
    if known.exists() and known.read_text() != boot:
        for record in root.glob("*/*.json"):
            if not _holds(record):
                record.unlink()
        for stage in ("parts", "contamination"):  # quickly made, and without digests
            shutil.rmtree(root / stage, ignore_errors=True)
    write_atomic(known, boot.encode())


def _holds(record: Path) -> bool:
    try:
        files = json.loads(record.read_bytes())["files"]
        return all(hash_of(record.with_name(name)) == expected for name, expected in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remove_half_written(root: Path) -> None:
    """Removes what killed writers left, which a full disk has no room for. Nobody may write there meanwhile."""
    for path in root.glob(f"*/{TEMPORARY_PREFIX}*"):
        path.unlink(missing_ok=True)


def tidy(root: Path, kept: set[str]) -> None:
    """Removes what belongs to none of the names: records first, or a kill would leave some without their files."""
    strangers = [
        path
        for folder in root.glob("*/")
        for path in folder.iterdir()
        if f"{folder.name}/{path.name.partition('.')[0].partition('-')[0]}" not in kept
    ]
    for path in sorted(strangers, key=lambda path: path.suffix != ".json"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
