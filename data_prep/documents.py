"""Readers: from slices of files to batches of documents.

    slices -> chunks of bytes -> whole lines, rows, pages, files -> DocumentBatch, each of about so many bytes

A document that cannot be used ends in a counted reason; a file that cannot be read to its end fails the build, because
half a file would be a silently different corpus. A document's id is its record's own, else `file#place` with the byte
offset of its line or its row number, else, when a whole file is the document, the file's name. A page of a WARC has
its record's id, else its URI.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from data_prep.config import SourceConfig
from data_prep.errors import DataMistake
from data_prep.fetch import RangeFile, read_chunks, reading
from data_prep.inputs import InputFile, Slice
from data_prep.jsonl import END, Lines, id_of, is_utf8
from data_prep.remote import is_local
from data_prep.texts import Texts, texts_from_arrow, texts_of
from data_prep.web import page_text, warc_pages

BATCH_BYTES = 16_000_000
PACKED_BYTES = 1 << 17
"""Compressed bytes unpacked at a time: at a ratio of 100, 13 MB of text in memory."""


@dataclass(frozen=True, slots=True)
class DocumentBatch:
    ids: list[str]
    texts: Texts
    """As UTF-8, one for each id."""
    bad: Counter[str]
    """Reason -> how many others there were: `not_json`, `no_text`, `not_utf8`; of web pages `not_html`, `http_error`,
    `not_decodable`."""


def read_batches(
    pieces: Iterable[Slice], source: SourceConfig, batch_bytes: int = BATCH_BYTES
) -> Iterator[DocumentBatch]:
    """All documents of the slices, in order, in batches of at most `batch_bytes` of text or of one reader's step.

    Raises DataMistake, naming the file, if one cannot be read to its end, DataError if its store keeps failing.
    """
    held: list[DocumentBatch] = []
    held_bytes = 0
    for part in (part for piece in pieces for part in _read(piece, source, batch_bytes)):
        size = len(part.texts.data)
        if held and held_bytes + size > batch_bytes:
            yield _joined(held)
            held, held_bytes = [], 0
        held.append(part)
        held_bytes += size
    if held:
        yield _joined(held)


def _read(piece: Slice, source: SourceConfig, step_bytes: int) -> Iterator[DocumentBatch]:
    with reading(piece.file):
        yield from READERS[piece.file.kind](piece, source, step_bytes)


def _joined(parts: Sequence[DocumentBatch]) -> DocumentBatch:
    if len(parts) == 1:
        return parts[0]
    sizes = np.concatenate([part.texts.sizes for part in parts])
    data = np.concatenate([part.texts.data for part in parts])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    bad = sum((part.bad for part in parts), Counter[str]())
    return DocumentBatch([name for part in parts for name in part.ids], Texts(data, offsets), bad)


def _one(name: str, text: bytes) -> DocumentBatch:
    return DocumentBatch([name], texts_of([text]), Counter())


def _none(*reasons: str) -> DocumentBatch:
    return DocumentBatch([], texts_of([]), Counter(reasons))


def _read_jsonl(piece: Slice, source: SourceConfig, step_bytes: int) -> Iterator[DocumentBatch]:
    """A line belongs to the slice in which it begins. Lines of white space are no documents."""
    lines: Lines | None = None
    for offset, block in _line_blocks(piece):
        size = len(block) - len(END)
        if lines is not None and not lines.has_room(size):
            yield DocumentBatch(*lines.documents())
            lines = None
        lines = lines or Lines(piece.file.relative, source.text_field, source.id_field, max(size, step_bytes))
        lines.read(block, offset)
    if lines is not None:
        yield DocumentBatch(*lines.documents())


def _read_text(piece: Slice, source: SourceConfig, step_bytes: int) -> Iterator[DocumentBatch]:
    data = b"".join(_plain_chunks(piece.file))
    yield _one(piece.file.relative, data) if is_utf8(data) else _none("not_utf8")


def _read_html(piece: Slice, source: SourceConfig, step_bytes: int) -> Iterator[DocumentBatch]:
    yield _one(piece.file.relative, page_text(b"".join(_plain_chunks(piece.file))).encode())


def _read_warc(piece: Slice, source: SourceConfig, step_bytes: int) -> Iterator[DocumentBatch]:
    for number, page in enumerate(warc_pages(_plain_chunks(piece.file))):
        if isinstance(page, str):
            yield _none(page)
        else:
            yield _one(page.id or f"{piece.file.relative}#{number}", page_text(page.html, page.charset).encode())


def _read_parquet(piece: Slice, source: SourceConfig, step_bytes: int) -> Iterator[DocumentBatch]:
    with open_parquet(piece.file) as parquet:
        names = parquet.schema_arrow.names
        if source.text_field not in names:
            raise DataMistake(
                f"{piece.file.url} has no column {source.text_field!r} but {', '.join(names)};"
                f" set sources.{source.name}.text_field"
            )
        groups = range(piece.start, parquet.metadata.num_row_groups if piece.end < 0 else piece.end)
        row = sum(parquet.metadata.row_group(i).num_rows for i in range(piece.start))
        columns = list({source.text_field, source.id_field} & set(names))
        steps = parquet.iter_batches(_rows_at_a_time(parquet, groups), row_groups=list(groups), columns=columns)
        for step in steps:
            ids = step[source.id_field] if source.id_field in columns else pa.nulls(len(step))
            yield _rows(step[source.text_field], _values(ids), f"{piece.file.relative}#", row)
            row += len(step)


def _rows_at_a_time(parquet: Any, groups: range) -> int:
    """Rows of about a megabyte, by the mean size of a row."""
    metadata = [parquet.metadata.row_group(i) for i in groups]
    size, rows = sum(one.total_byte_size for one in metadata), sum(one.num_rows for one in metadata)
    return max(1, int(rows) * PARQUET_BYTES // max(int(size), 1))


def _values(ids: pa.Array) -> list[Any]:
    try:
        return list(ids.to_pylist())
    except UnicodeDecodeError:
        return [one and one.decode(errors="replace") for one in ids.cast(pa.large_binary()).to_pylist()]


def _rows(texts: pa.Array, ids: list[Any], place: str, row: int) -> DocumentBatch:
    """The rows that have a text, and how many have none."""
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    if not any(is_text(texts.type) for is_text in TEXT_TYPES):
        return _none(*["no_text"] * len(texts))
    texts = texts.cast(pa.large_binary())
    kept = np.asarray(texts.is_valid())
    bad = Counter({"no_text": len(texts) - int(kept.sum())})
    try:
        texts.cast(pa.large_string())
    except pa.ArrowInvalid:
        wrong = np.array([text is not None and not is_utf8(text) for text in texts.to_pylist()])
        bad["not_utf8"] = int(wrong.sum())
        kept &= ~wrong
    names = [id_of(one) or f"{place}{row + i}" for i, one in enumerate(ids) if kept[i]]
    return DocumentBatch(names, texts_from_arrow(texts.filter(pa.array(kept))), +bad)


TEXT_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)
PARQUET_BYTES = 1 << 20
READERS: dict[str, Callable[[Slice, SourceConfig, int], Iterator[DocumentBatch]]] = {
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "text": _read_text,
    "html": _read_html,
    "warc": _read_warc,
}


@contextmanager
def open_parquet(file: InputFile) -> Iterator[Any]:
    """The file as a `pyarrow.parquet.ParquetFile`; within `reading`, which names it if it is none."""
    with pq.ParquetFile(file.url if is_local(file.url) else pa.PythonFile(RangeFile(file), "r")) as parquet:
        yield parquet


def _line_blocks(piece: Slice) -> Iterator[tuple[int, bytes]]:
    """(byte offset, whole lines and `END`) of the lines that begin in the slice; in compressed files, offsets into the
    text."""
    if piece.file.compression:
        return _whole_lines(_unpacked(piece.file), 0)
    end = piece.file.size_bytes if piece.end < 0 else piece.end
    if piece.start >= end:
        return iter(())
    before = max(piece.start - 1, 0)
    chunks = _to_line_end(read_chunks(piece.file, before, end), before, end)
    if piece.start:  # a line that began before is the former slice's
        chunks, before = _behind_first_line(chunks, before)
    return _whole_lines(chunks, before)


def _to_line_end(chunks: Iterator[bytes], offset: int, end: int) -> Iterator[bytes]:
    """Chunks that begin at a byte offset, up to the end of the line that holds the byte before `end`."""
    for chunk in chunks:
        if offset + len(chunk) >= end and (newline := chunk.find(b"\n", max(0, end - 1 - offset)) + 1):
            yield chunk[:newline]
            return
        yield chunk
        offset += len(chunk)


def _behind_first_line(chunks: Iterator[bytes], offset: int) -> tuple[Iterator[bytes], int]:
    """The chunks without their first line, and the offset of what is left."""
    for chunk in chunks:
        if newline := chunk.find(b"\n") + 1:
            return chain([chunk[newline:]], chunks), offset + newline
        offset += len(chunk)
    return chunks, offset


def _whole_lines(chunks: Iterator[bytes], offset: int) -> Iterator[tuple[int, bytes]]:
    """(offset, whole lines and `END`). A line over many chunks is joined once: one of 100 MB costs what many short
    ones do."""
    begun: list[bytes | memoryview] = []
    for chunk in chunks:
        view, newline = memoryview(chunk), chunk.rfind(b"\n") + 1
        if newline:
            block = b"".join((*begun, view[:newline], END))
            yield offset, block
            offset += len(block) - len(END)
            begun = []
        begun.append(view[newline:])
    if any(map(len, begun)):
        yield offset, b"".join((*begun, END))


def _plain_chunks(file: InputFile) -> Iterator[bytes]:
    """The file's bytes, unpacked if need be."""
    return _unpacked(file) if file.compression else read_chunks(file)


def _unpacked(file: InputFile) -> Iterator[bytes]:
    """The unpacked bytes of a .gz or .zst file of one or more members. Raises EOFError if the last one is cut off.

    Not `zstandard.stream_reader`: it takes a cut file for a short one without a word.
    """
    member: Any = None
    if not file.size_bytes:
        raise EOFError("it is empty, which no packed file is")
    for data in _pieces(read_chunks(file)):
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


def _pieces(chunks: Iterator[bytes]) -> Iterator[bytes]:
    return (chunk[start : start + PACKED_BYTES] for chunk in chunks for start in range(0, len(chunk), PACKED_BYTES))


DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
}
