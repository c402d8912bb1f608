"""Which files a source has, and how they are cut into units of work.

Files are listed relative to the fixed part of the source's path and sorted by that relative name, so neither the place
of the folder nor the order in which a file system lists it shapes a document's id or the corpus. Units bound what one
task reads and what a crash can cost; they shape no byte of the corpus.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from data_prep.config import SourceConfig
from data_prep.errors import DataMistake

if TYPE_CHECKING:
    from data_prep.listing import Listed

READER_VERSION = 1
COMPRESSIONS = (".gz", ".zst")
EXPANSION = 4
"""Text from a byte of gzip or zstd, roughly: only the size of units depends on it."""
WHOLE_KINDS = ("text", "html", "warc")
"""Files that are read from their beginning to their end by one task."""
KINDS = {".jsonl": "jsonl", ".html": "html", ".htm": "html", ".warc": "warc"}
TEXT_SUFFIXES = re.compile(
    r"\.(txt|md|rst|tex|py|pyi|c|h|cc|cpp|hpp|cu|rs|go|java|kt|scala|js|jsx|ts|tsx|rb|php|pl|lua|jl|r|hs|ml|swift|cs"
    r"|sh|sql|css|proto|cmake|mk|toml|yaml|yml|ini|cfg)"
)
"""Prose and source files: the whole file is one document."""


@dataclass(frozen=True, kw_only=True)
class InputFile:
    url: str
    """Local path or fsspec URL."""
    relative: str
    """Name below the fixed part of the source's path, `/` between folders."""
    size_bytes: int
    version: str
    """What tells that the file was not changed since: size, time and inode, or the store's own checksum."""
    kind: str
    """`jsonl`, `parquet`, `warc`, `html` or `text` (the whole file is a document)."""
    compression: str
    """``, `.gz` or `.zst`."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Part of a file: bytes of plain jsonl, row groups of parquet; `end` is -1 for all of the file."""

    file: InputFile
    start: int = 0
    end: int = -1


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one task reads: neighbouring slices of one source."""

    source: int
    """Position of the source in the config."""
    slices: tuple[Slice, ...]


def list_inputs(source: SourceConfig) -> tuple[InputFile, ...]:
    """The source's files; see `files_at`."""
    return files_at(source.path, f"sources.{source.name}.path", source.exclude)


def files_at(path: str, key: str, exclude: Iterable[str] = ()) -> tuple[InputFile, ...]:
    """The files at a path of the config, sorted by relative name, without those that a pattern of `exclude` matches.

    A pattern with a `/` is matched with the relative path, one without with every name on the way, so that
    `node_modules` takes out all folders of that name. Raises DataMistake, naming the config's key, if there is no file,
    or one of no known kind.
    """
    from data_prep.listing import list_files

    where = f"{key}: {path}"
    return tuple(_input_file(listed, where) for listed in list_files(path, exclude, where))


def _input_file(listed: "Listed", where: str) -> InputFile:
    relative = listed.relative
    suffix = PurePosixPath(relative).suffix.lower()
    compression = suffix if suffix in COMPRESSIONS else ""
    inner = PurePosixPath(relative[: len(relative) - len(compression)]).suffix.lower()
    if inner in KINDS:
        kind = KINDS[inner]
    elif inner == ".parquet" and not compression:
        kind = "parquet"
    elif TEXT_SUFFIXES.fullmatch(inner):
        kind = "text"
    else:
        raise DataMistake(
            f"{where}: {relative} has an unknown extension; headrace reads .jsonl, .txt, .html, .warc and source files"
            " (each also as .gz or .zst) and .parquet: narrow the path by a pattern such as **/*.py"
        )
    return InputFile(
        url=listed.url,
        relative=relative,
        size_bytes=listed.size_bytes,
        version=listed.version,
        kind=kind,
        compression=compression,
    )


def slice_key(piece: Slice, fingerprint: str, source: SourceConfig) -> dict[str, Any]:
    """What a slice's documents and their ids depend on, and nothing else, to name work by that is kept.

    `fingerprint` is the file's digest. Raise `READER_VERSION` when a reader makes other documents of the same bytes.
    """
    fields = [source.text_field, source.id_field] if piece.file.kind in ("jsonl", "parquet") else []
    return {
        "reader": READER_VERSION,
        "kind": piece.file.kind,
        "compression": piece.file.compression,
        "fields": fields,
        "file": fingerprint,
        "name": piece.file.relative,
        "part": [piece.start, piece.end],
    }


def cut_units(source: int, files: Iterable[InputFile], unit_bytes: int) -> tuple[Unit, ...]:
    """Cuts big files into slices of about `unit_bytes` and groups small ones up to it, in order of the files."""
    units: list[Unit] = []
    group: list[Slice] = []
    group_bytes = 0
    for piece, size in (piece for file in files for piece in _slices(file, unit_bytes)):
        if group and group_bytes + size > unit_bytes:
            units.append(Unit(source=source, slices=tuple(group)))
            group, group_bytes = [], 0
        group.append(piece)
        group_bytes += size
    if group:
        units.append(Unit(source=source, slices=tuple(group)))
    return tuple(units)


def _slices(file: InputFile, unit_bytes: int) -> Iterator[tuple[Slice, int]]:
    """(slice, size in bytes) pairs that cover the file."""
    size = file.size_bytes * (EXPANSION if file.compression else 1)
    if size <= unit_bytes or file.compression or file.kind in WHOLE_KINDS:
        yield Slice(file=file), size
    elif file.kind == "jsonl":
        for start in range(0, size, unit_bytes):
            yield Slice(file=file, start=start, end=min(start + unit_bytes, size)), min(unit_bytes, size - start)
    else:
        yield from _row_group_slices(file, unit_bytes)


def _row_group_slices(file: InputFile, unit_bytes: int) -> Iterator[tuple[Slice, int]]:
    from data_prep.documents import open_parquet
    from data_prep.fetch import reading

    with reading(file), open_parquet(file) as parquet:
        sizes = [parquet.metadata.row_group(i).total_byte_size for i in range(parquet.metadata.num_row_groups)]
    start, held = 0, 0
    for place, size in enumerate(sizes):
        held += size
        if held >= unit_bytes or place == len(sizes) - 1:
            yield Slice(file=file, start=start, end=place + 1), held
            start, held = place + 1, 0
