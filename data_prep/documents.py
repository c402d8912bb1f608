"""Readers: from a slice of a file to documents.

A document that cannot be used ends in a counted reason; a file that cannot be read to its end fails the build, because
half a file would be a silently different corpus. A document's id is its record's own, else `file#place` with the byte
offset of its line or its row number, else, when a whole file is the document, the file's name. A page of a WARC has
its record's id, else its URI.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from data_prep.config import SourceConfig
from data_prep.errors import DataMistake
from data_prep.inputs import InputFile, Slice
from data_prep.web import page_text, warc_pages

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CHUNK_BYTES = 1 << 18
"""Compressed bytes read at a time: at a ratio of 100, 26 MB of text in memory."""


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    text: str
    source: str
    metadata: Mapping[str, str]
    """Where it comes from: `file`."""


@dataclass(frozen=True, slots=True)
class BadDocument:
    reason: str
    """`not_json`, `no_text`, `not_utf8`; of web pages `not_html`, `http_error`, `not_decodable`."""


def read_slice(piece: Slice, source: SourceConfig) -> Iterator[Document | BadDocument]:
    """All documents of the slice, in order. Raises DataMistake, naming the file, if it cannot be read to its end."""
    return READERS[piece.file.kind](piece, source)


def _read_jsonl(piece: Slice, source: SourceConfig) -> Iterator[Document | BadDocument]:
    """A line belongs to the slice in which it begins. Lines of white space are no documents."""
    metadata = {"file": piece.file.relative}
    for offset, line in _lines(piece):
        line = line.removeprefix(BYTE_ORDER_MARK) if offset == 0 else line
        if line and not line.isspace():
            yield _from_line(line, f"{piece.file.relative}#{offset}", source, metadata)


def _from_line(line: bytes, place: str, source: SourceConfig, metadata: dict[str, str]) -> Document | BadDocument:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return BadDocument("not_json" if _is_utf8(line) else "not_utf8")
    text = record.get(source.text_field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        return BadDocument("no_text")
    return Document(_id_or(record.get(source.id_field), place), text, source.name, metadata)


def _id_or(value: Any, place: str) -> str:
    if isinstance(value, str) and value:
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else place


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_text(piece: Slice, source: SourceConfig) -> Iterator[Document | BadDocument]:
    with _opened(piece.file) as file:
        data = b"".join(_plain_chunks(piece.file, file))
    try:
        yield Document(piece.file.relative, data.decode(), source.name, {"file": piece.file.relative})
    except UnicodeDecodeError:
        yield BadDocument("not_utf8")


def _read_html(piece: Slice, source: SourceConfig) -> Iterator[Document | BadDocument]:
    with _opened(piece.file) as file:
        html = b"".join(_plain_chunks(piece.file, file))
    yield Document(piece.file.relative, page_text(html), source.name, {"file": piece.file.relative})


def _read_warc(piece: Slice, source: SourceConfig) -> Iterator[Document | BadDocument]:
    metadata = {"file": piece.file.relative}
    with _opened(piece.file) as file:
        for number, page in enumerate(warc_pages(_plain_chunks(piece.file, file))):
            if isinstance(page, str):
                yield BadDocument(page)
            else:
                text = page_text(page.html, page.charset)
                yield Document(page.id or f"{piece.file.relative}#{number}", text, source.name, metadata)


def _read_parquet(piece: Slice, source: SourceConfig) -> Iterator[Document | BadDocument]:
    metadata = {"file": piece.file.relative}
    with open_parquet(piece.file) as parquet:
        names = parquet.schema_arrow.names
        if source.text_field not in names:
            raise DataMistake(
                f"{piece.file.url} has no column {source.text_field!r} but {', '.join(names)};"
                f" set sources.{source.name}.text_field"
            )
        columns = [source.text_field] + [source.id_field] * (source.id_field in names)
        groups = range(piece.start, parquet.metadata.num_row_groups if piece.end < 0 else piece.end)
        row = sum(parquet.metadata.row_group(i).num_rows for i in range(piece.start))
        for batch in parquet.iter_batches(batch_size=256, row_groups=list(groups), columns=columns):
            try:
                texts = batch[source.text_field].to_pylist()
                ids = batch[source.id_field].to_pylist() if len(columns) == 2 else [None] * len(texts)
            except UnicodeDecodeError:
                texts = batch[source.text_field].cast(pa.large_binary()).to_pylist()
                ids = batch[source.id_field].to_pylist() if len(columns) == 2 else [None] * len(texts)
            for value, document_id in zip(texts, ids, strict=True):
                place = f"{piece.file.relative}#{row}"
                row += 1
                if isinstance(value, bytes):
                    if not _is_utf8(value):
                        yield BadDocument("not_utf8")
                        continue
                    value = value.decode()
                if not isinstance(value, str):
                    yield BadDocument("no_text")
                else:
                    yield Document(_id_or(document_id, place), value, source.name, metadata)


READERS: dict[str, Callable[[Slice, SourceConfig], Iterator[Document | BadDocument]]] = {
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "text": _read_text,
    "html": _read_html,
    "warc": _read_warc,
}


@contextmanager
def _reading(file: InputFile) -> Iterator[None]:
    """Turns what a missing, cut or damaged file raises into one line that names it."""
    try:
        yield
    except (EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException) as error:
        what = " ".join(str(error).split())
        raise DataMistake(f"{file.url} is cut off or damaged ({what}); fetch it again or take it out") from error
    except OSError as error:
        raise DataMistake(f"{file.url} cannot be read: {error.strerror or error}; check that it exists") from error


@contextmanager
def _opened(file: InputFile) -> Iterator[BinaryIO]:
    with _reading(file), fsspec.open(file.url, "rb") as opened:
        yield opened


@contextmanager
def open_parquet(file: InputFile) -> Iterator[Any]:
    """The file as a `pyarrow.parquet.ParquetFile`; DataMistake if it is none."""
    with _opened(file) as opened, pq.ParquetFile(opened) as parquet:
        yield parquet


def _lines(piece: Slice) -> Iterator[tuple[int, bytes]]:
    """(byte offset, line) of the lines that begin in the slice; in compressed files, offsets into the text."""
    with _opened(piece.file) as file:
        if piece.file.compression:
            yield from _split_lines(_chunks(piece.file, file))
            return
        if piece.start:  # a line that began before is the former slice's
            file.seek(piece.start - 1)
            offset = piece.start - 1 + len(file.readline())
        else:
            offset = 0
        end = piece.file.size_bytes if piece.end < 0 else piece.end
        while offset < end and (line := file.readline()):
            yield offset, line
            offset += len(line)


def _split_lines(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines of a stream. A line over many chunks is joined once: 100 MB on one line cost what many short ones do."""
    offset = 0
    begun: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        begun.append(first)
        for other in others:
            line = b"".join(begun)
            if line:
                yield offset, line
            offset += len(line) + 1
            begun = [other]
    if line := b"".join(begun):
        yield offset, line


def _chunks(file: InputFile, opened: BinaryIO) -> Iterator[bytes]:
    """The decompressed bytes of a .gz or .zst file of one or more members. Raises EOFError if the last one is cut off.

    Not `zstandard.stream_reader`: it takes a cut file for a short one without a word.
    """
    member: Any = None
    while data := opened.read(CHUNK_BYTES):
        while data:
            if member is None:
                data = data.lstrip(b"\0") if file.compression == ".gz" else data  # gzip allows zeros between members
                if not data:
                    break
                member = DECOMPRESSORS[file.compression]()
            yield member.decompress(data)
            data, member = (member.unused_data, None) if member.eof else (b"", member)
    if member is not None:
        raise EOFError("it ends inside compressed data")


def _plain_chunks(file: InputFile, opened: BinaryIO) -> Iterator[bytes]:
    """The file's bytes, decompressed if need be."""
    return _chunks(file, opened) if file.compression else iter(lambda: opened.read(CHUNK_BYTES), b"")


DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
}
