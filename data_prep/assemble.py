"""From encoded parts to the corpus's own files: shards with their sidecars, and the held-out documents.

    pack_cells   lengths of each cell's documents  ->  tokens of its rows      (index only; no tokens are read)
    write_cells  those, added up                   ->  where in the source's stream each cell begins: SOURCE.cells.npy
    write_shard  the cells of a shard's span       ->  shard and sidecar

A shard's task goes from cell to cell: it reads the cell's documents from all parts, packs them anew, and writes what is
the shard's; a cell at a border is read by both neighbours. In memory is one cell, whatever a shard's size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.cells import cell_lengths, gathered, num_tokens_of, read_cells
from data_prep.files import atomic_file, sha256_file
from data_prep.manifest import HeldoutRecord, ShardRecord, cells_name, shard_name, sidecar_name
from data_prep.pack import (
    CONCATENATE,
    Int64s,
    ShardSpan,
    Tokens,
    cells_of_span,
    clipped,
    cut_documents,
    lay_out,
    starts_of,
)
from data_prep.shards import ShardWriter, SidecarWriter, sidecar_table, write_heldout
from data_prep.tokenizer import TokenizerFacts
from data_prep.work import Work

CELLS_PER_TASK = 64
"""Cells that one task packs: some 10 MB of index."""


@dataclass(frozen=True, kw_only=True)
class PackRecord:
    """What came of some cells."""

    cell_tokens: tuple[int, ...]
    """Tokens of each cell's part of the stream, padding between rows included."""


@dataclass(frozen=True)
class Packed:
    """A source's stream of rows."""

    starts: Int64s
    """Where each cell begins in it, and where the last ends."""
    sha256: str
    """Of the file that says so."""

    @property
    def num_tokens(self) -> int:
        return int(self.starts[-1])


def cell_ranges(num_cells: int) -> list[range]:
    """The cells of a source, in the portions that `pack_cells` takes."""
    return [range(first, min(first + CELLS_PER_TASK, num_cells)) for first in range(0, num_cells, CELLS_PER_TASK)]


def pack_cells(work: Work, name: str, cells: range, num_cells: int, parts: Sequence[str]) -> PackRecord:
    """Counts what each cell fills. `parts` are those of the source that may hold some of the cells."""
    length, packing = work.config.sequence_length, work.config.packing
    counts = [
        num_tokens_of(work, parts, cell, num_cells)
        if packing == CONCATENATE
        else lay_out(cell_lengths(work, parts, cell, num_cells), length, packing)[1]
        for cell in cells
    ]
    return work.save_record(name, PackRecord(cell_tokens=tuple(counts)))


def write_cells(folder: Path, source: str, packed: Sequence[PackRecord]) -> Packed:
    """Writes where in a source's stream each cell begins, and where the last ends."""
    path = folder / "shards" / cells_name(source)
    starts = starts_of([count for one in packed for count in one.cell_tokens])
    with atomic_file(path) as file:
        np.save(file, starts, allow_pickle=False)
    return Packed(starts, sha256_file(path))


def write_shard(
    work: Work, name: str, source: str, span: ShardSpan, parts: Sequence[str], facts: TokenizerFacts
) -> ShardRecord:
    """Writes one shard and its sidecar. `parts` are those of the source that may hold some of its cells."""
    path = work.output / "shards" / shard_name(source, span.number)
    sidecar = path.with_name(sidecar_name(path.name))
    starts = np.load(path.with_name(cells_name(source)), mmap_mode="r", allow_pickle=False)
    num_documents = num_cut = 0
    with atomic_file(path) as file, atomic_file(sidecar) as sidecar_file, SidecarWriter(sidecar_file) as documents:
        writer = ShardWriter(file, work.config.sequence_length, facts.end_of_text_id, facts.token_dtype)
        for number in cells_of_span(span, starts):
            of_cell = _in_shard(work, source, span, number, starts, parts, facts)
            writer.write(of_cell.tokens)
            documents.write(of_cell.documents)
            num_documents += of_cell.num_documents
            num_cut += of_cell.cut_documents
        sha256 = writer.finish()
    assert writer.num_sequences == span.num_sequences, f"{path} has {writer.num_sequences} sequences, not as planned"
    done = ShardRecord(
        name=path.name,
        source=source,
        number=span.number,
        num_sequences=span.num_sequences,
        num_documents=num_documents,
        cut_documents=num_cut,
        size_bytes=writer.size_bytes,
        sha256=sha256,
        docs_sha256=sha256_file(sidecar),
    )
    return work.save_record(name, done)


@dataclass(frozen=True, kw_only=True)
class CellInShard:
    """What of a cell lies in a shard."""

    tokens: Tokens
    documents: pa.Table
    """Their rows of the sidecar."""
    num_documents: int
    cut_documents: int


def _in_shard(
    work: Work, source: str, span: ShardSpan, number: int, starts: Int64s, parts: Sequence[str], facts: TokenizerFacts
) -> CellInShard:
    """Reads and packs a cell. A function of its own, so that nothing of a cell is left in memory when the next is
    read."""
    length = work.config.sequence_length
    cell = read_cells(work, parts, range(number, number + 1), len(starts) - 1, facts)
    start, stop = int(starts[number]), int(starts[number + 1])
    first, end = max(span.first_token, start), min(span.end_token, stop)
    pieces, _ = lay_out(cell.lengths, length, work.config.packing)
    pieces = clipped(pieces, first - start, end - start)
    tokens = gathered(cell, pieces, end - first, facts.end_of_text_id)
    pieces = pieces.moved(first - span.first_token)
    return CellInShard(
        tokens=tokens,
        documents=sidecar_table(cell.ids, source, pieces, length),
        num_documents=len(np.unique(pieces.document)),
        cut_documents=cut_documents(pieces, cell.lengths, length),
    )


def write_heldout_documents(work: Work, name: str, source: str, parts: Sequence[str]) -> HeldoutRecord:
    """Writes a source's held-out documents, sorted by id, then text."""
    tables = [work.load_table(part, "heldout.arrow") for part in parts]
    table = pa.concat_tables(tables)
    table = table.set_column(1, "text", table["text"].cast(pa.large_string()))
    table = table.sort_by([("id", "ascending"), ("text", "ascending")]).combine_chunks()
    path = work.output / "heldout" / f"{source}.parquet"
    with atomic_file(path) as file:
        write_heldout(file, table)
    done = HeldoutRecord(
        name=path.name,
        source=source,
        num_documents=len(table),
        text_bytes=_text_bytes(table["text"]),
        sha256=sha256_file(path),
    )
    return work.save_record(name, done)


def _text_bytes(column: pa.ChunkedArray) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(pc.binary_length(column)).as_py() or 0)
