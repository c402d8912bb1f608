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
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.manifest import HEADER_BYTES, ManifestRecord, sidecar_name, stride_bytes
from data_prep.pack import Pieces, Tokens, rows

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


def headers(first_row: int, num_rows: int, payload_bytes: int) -> npt.NDArray[np.uint8]:
    """USTAR headers (num_rows, 512) of the members `{row:010d}.bin`."""
    template = np.zeros(HEADER_BYTES, dtype=np.uint8)
    for offset, value in (
        (0, b"0000000000.bin"),
        (100, b"0000644\0"),  # mode
        (108, b"0000000\0"),  # uid
        (116, b"0000000\0"),  # gid
        (124, b"%011o\0" % payload_bytes),
        (136, b"00000000000\0"),  # mtime
        (148, b"        "),  # checksum: counted as spaces
        (156, b"0"),  # a regular file
        (257, b"ustar\x0000"),
    ):
        template[offset : offset + len(value)] = np.frombuffer(value, dtype=np.uint8)
    out = np.tile(template, (num_rows, 1))
    row = np.arange(first_row, first_row + num_rows, dtype=np.int64)
    checksum = np.full(num_rows, int(template.sum()), dtype=np.int64)
    for place in range(9, -1, -1):
        row, digit = np.divmod(row, 10)
        out[:, place] += digit.astype(np.uint8)
        checksum += digit
    for place in range(153, 147, -1):
        out[:, place] = 48 + (checksum & 7)
        checksum >>= 3
    out[:, 154] = 0
    return out


def tar_blocks(sequences: Tokens, first_row: int = 0) -> npt.NDArray[np.uint8]:
    """(n, sequence_length) as tar members: (n, stride) bytes."""
    little = np.ascontiguousarray(sequences, dtype=sequences.dtype.newbyteorder("<"))
    payload = little.view(np.uint8).reshape(len(sequences), -1)
    stride = HEADER_BYTES + -(-payload.shape[1] // 512) * 512
    out = np.zeros((len(sequences), stride), dtype=np.uint8)
    out[:, :HEADER_BYTES] = headers(first_row, len(sequences), payload.shape[1])
    out[:, HEADER_BYTES : HEADER_BYTES + payload.shape[1]] = payload
    return out


@dataclass
class ShardWriter:
    """Writes one shard from a stream of tokens, in bounded memory, and knows its digest at the end."""

    file: BinaryIO
    sequence_length: int
    end_of_text_id: int
    num_sequences: int = 0
    size_bytes: int = 0
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    _rest: Tokens = field(default_factory=lambda: np.zeros(0, dtype=np.uint16))

    def write(self, tokens: Tokens) -> None:
        """Takes the next tokens of the stream, best some MB of them; whole sequences go to the file."""
        joined = np.concatenate([self._rest, tokens]) if len(self._rest) else tokens
        whole = len(joined) // self.sequence_length * self.sequence_length
        self._put_rows(joined[:whole].reshape(-1, self.sequence_length))
        self._rest = joined[whole:].copy()  # a view would keep all of them

    def finish(self) -> str:
        """Pads the last sequence, ends the archive and returns the sha256."""
        self._put_rows(rows(self._rest, self.sequence_length, self.end_of_text_id))
        self._put(bytes(END_BYTES))
        return self._digest.hexdigest()

    def _put_rows(self, sequences: Tokens) -> None:
        per_block = max(1, BLOCK_BYTES // (sequences.shape[1] * sequences.itemsize))
        for start in range(0, len(sequences), per_block):
            block = sequences[start : start + per_block]
            self._put(tar_blocks(block, self.num_sequences).data)
            self.num_sequences += len(block)

    def _put(self, data: "bytes | memoryview") -> None:
        self.file.write(data)
        self._digest.update(data)
        self.size_bytes += len(data) if isinstance(data, bytes) else data.nbytes


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
