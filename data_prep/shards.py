"""The shard format: a USTAR file with a constant stride, so that any sequence is found by arithmetic.

    byte 0        512              stride        stride + 512
    | header of 0000000000.bin | payload, zeros | header of 0000000001.bin | payload, zeros | ... | two zero blocks |

A payload is `sequence_length` token ids, little-endian. Any tar reader opens the file; `open_shard` maps it into memory
and views it as one strided array without a copy. Headers of one shard differ in the digits of the name and the
checksum only, so numpy fills all of them at once: `tarfile` took 16 % of a whole build's time for the same bytes.
"""

import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.manifest import HEADER_BYTES, ManifestRecord, sidecar_name, stride_bytes
from data_prep.pack import Pieces, Tokens

END_BYTES = 1024
"""POSIX ends an archive with two zero blocks of 512 bytes."""
BLOCK_BYTES = 8_000_000
"""Rows are laid out and written in blocks of about this size: 64 kB to 64 MB made no difference in speed."""

SIDECAR_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("row", pa.int32()),
        ("first_token", pa.int32()),
        ("length", pa.int64()),
    ]
)
GROUP_ROWS = 65_536
"""Documents in a row group of a sidecar, so that a reader can look at part of it."""
HELDOUT_SCHEMA = pa.schema([("id", pa.string()), ("text", pa.large_string())])


def sequences_per_shard(shard_bytes: int, sequence_length: int, token_dtype: str) -> int:
    return max(1, (shard_bytes - END_BYTES) // stride_bytes(sequence_length, token_dtype))


def _template(payload_bytes: int) -> npt.NDArray[np.uint8]:
    """A header (512,) of row 0, without its checksum."""
    template = np.zeros(HEADER_BYTES, dtype=np.uint8)
    for offset, value in (
        (0, b"0000000000.bin"),
        (100, b"0000644\0"),  # mode
        (108, b"0000000\0"),  # uid
        (116, b"0000000\0"),  # gid
        (124, b"%011o\0" % payload_bytes),
        (136, b"00000000000\0"),  # mtime
        (148, b"000000\0 "),  # checksum
        (156, b"0"),  # a regular file
        (257, b"ustar\x0000"),
    ):
        template[offset : offset + len(value)] = np.frombuffer(value, dtype=np.uint8)
    return template


def _number(headers: npt.NDArray[np.uint8], first_row: int) -> None:
    """Writes the rows' names and checksums into headers (n, 512 or more) of rows that follow each other."""
    checked = headers[0, :HEADER_BYTES].copy()
    checked[:10], checked[148:156] = ord("0"), ord(" ")  # the checksum is counted as spaces
    row = np.arange(first_row, first_row + len(headers), dtype=np.int64)
    checksum = np.full(len(headers), int(checked.sum()), dtype=np.int64)
    for place in range(9, -1, -1):
        row, digit = np.divmod(row, 10)
        headers[:, place] = ord("0") + digit
        checksum += digit
    for place in range(153, 147, -1):
        headers[:, place] = ord("0") + (checksum & 7)
        checksum >>= 3


class ShardWriter:
    """Writes one shard from a stream of tokens, in bounded memory, and knows its digest at the end.

    Tokens are copied once: from the stream to their places in a block of tar members, which goes to the file.
    """

    def __init__(self, file: BinaryIO, sequence_length: int, end_of_text_id: int, token_dtype: str) -> None:
        self.num_sequences = 0
        """Those in the file."""
        self.size_bytes = 0
        self._file, self._length, self._end_of_text_id = file, sequence_length, end_of_text_id
        self._digest = hashlib.sha256()
        stride, dtype = stride_bytes(sequence_length, token_dtype), np.dtype(token_dtype).newbyteorder("<")
        payload_bytes = sequence_length * dtype.itemsize
        self._block = np.zeros((max(1, BLOCK_BYTES // stride), stride), dtype=np.uint8)
        self._block[:, :HEADER_BYTES] = _template(payload_bytes)
        self._rows: Tokens = self._block[:, HEADER_BYTES : HEADER_BYTES + payload_bytes].view(dtype)
        self._filled = 0
        """Tokens of the block."""

    def write(self, tokens: Tokens) -> None:
        """Takes the next tokens of the stream; best some MB of them."""
        taken = 0
        while taken < len(tokens):
            row, column = divmod(self._filled, self._length)
            whole_rows = 0 if column else min((len(tokens) - taken) // self._length, len(self._rows) - row)
            if whole_rows:
                count = whole_rows * self._length
                self._rows[row : row + whole_rows] = tokens[taken : taken + count].reshape(whole_rows, self._length)
            else:
                count = min(self._length - column, len(tokens) - taken)
                self._rows[row, column : column + count] = tokens[taken : taken + count]
            taken += count
            self._filled += count
            if self._filled == self._rows.size:
                self._put_rows(len(self._rows))

    def finish(self) -> str:
        """Pads the last sequence, ends the archive and returns the sha256."""
        row, column = divmod(self._filled, self._length)
        if column:
            self._rows[row, column:] = self._end_of_text_id
            row += 1
        self._put_rows(row)
        self._put(memoryview(bytes(END_BYTES)))
        return self._digest.hexdigest()

    def _put_rows(self, num_rows: int) -> None:
        if num_rows:
            _number(self._block[:num_rows], self.num_sequences)
            self._put(self._block[:num_rows].data)
        self.num_sequences += num_rows
        self._filled = 0

    def _put(self, data: memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size_bytes += data.nbytes


def open_shard(path: Path, manifest: ManifestRecord) -> Tokens:
    """A read-only view (num_sequences, sequence_length) of a shard's tokens in place: no copy, no parsing.

    The file stays mapped for as long as the array or a view of it lives. Raises ValueError if the file's size is not
    that of a whole shard of this manifest.
    """
    stride = manifest.stride
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        num_sequences, rest = divmod(size - END_BYTES, stride)
        if size <= END_BYTES or rest:
            raise ValueError(f"{path} has {size} bytes, which is not a whole shard; fetch it again or run prep again")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    dtype = np.dtype(manifest.token_dtype).newbyteorder("<")
    shape = (num_sequences, manifest.sequence_length)
    return np.ndarray(shape, dtype=dtype, buffer=mapped, offset=HEADER_BYTES, strides=(stride, dtype.itemsize))


def sidecar_table(ids: pa.Array, source: str, pieces: Pieces, sequence_length: int) -> pa.Table:
    """What a sidecar says of pieces that are placed in its shard. `ids` are those of all documents."""
    return pa.table(
        {
            "id": ids.take(pa.array(pieces.document)),
            "source": pa.repeat(source, len(pieces.document)),
            "row": pieces.start // sequence_length,
            "first_token": pieces.start % sequence_length,
            "length": pieces.length,
        }
    ).cast(SIDECAR_SCHEMA)


class SidecarWriter:
    """Writes a sidecar from tables of documents, one after another, and holds one row group of them."""

    def __init__(self, file: Path | BinaryIO) -> None:
        self._writer = pq.ParquetWriter(file, SIDECAR_SCHEMA, compression="zstd")
        self._rest = SIDECAR_SCHEMA.empty_table()

    def write(self, table: pa.Table) -> None:
        self._rest = pa.concat_tables([self._rest, table])
        while len(self._rest) > GROUP_ROWS:
            self._put(self._rest[:GROUP_ROWS])
            self._rest = self._rest[GROUP_ROWS:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._put(self._rest)
        self._writer.close()

    def _put(self, group: pa.Table) -> None:
        """In one chunk: parquet's pages end where a table's chunks do, so equal tables in other chunks have other
        bytes."""
        self._writer.write_table(group.combine_chunks(), row_group_size=GROUP_ROWS)


def write_heldout(file: Path | BinaryIO, table: pa.Table) -> None:
    """Stores a source's held-out documents, sorted by id, in one chunk as above."""
    pq.write_table(table.cast(HELDOUT_SCHEMA).combine_chunks(), file, compression="zstd", row_group_size=1_024)


def read_sidecar(folder: Path, shard: str) -> pa.Table:
    """The documents of a shard: id, source, row, first_token, length; sorted by position."""
    return pq.read_table(folder / "shards" / sidecar_name(shard))


def read_heldout(folder: Path, manifest: ManifestRecord) -> Iterator[tuple[str, str, str]]:
    """(source, id, text) of each held-out document, in the manifest's order."""
    for record in manifest.heldout:
        with pq.ParquetFile(folder / "heldout" / record.name) as file:
            for batch in file.iter_batches(batch_size=64):
                for document_id, text in zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True):
                    yield record.source, document_id, text
