"""Every token has a parent: which documents a step trained on, and which steps trained on a document.

    step ──Order.locate──> (source, shard, row) ──sidecar──> documents
    document's id ──shuffle key──> cell ──> shards, rows ──sidecar──> rows ──Order.positions_of──> positions ──> steps

Neither way scans anything. A document's shuffle key, which is a hash of its id, says which cell it was packed with, and
`SOURCE.cells.npy` where the rows of a cell begin. A cell has about 16 MB of text, so the id is looked for in few row
groups of one sidecar or two, those that tell of its rows. The steps are the inverse of the order, in closed form.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.files import sha256_file
from data_prep.keys import SHUFFLE, document_key
from data_prep.manifest import Manifest, ShardRecord, SourceRecord, cells_name, sidecar_name
from data_prep.pack import Int64s, cell_of
from pipeline.batches import Batches
from pipeline.data.order import Order, SequenceIds
from pipeline.errors import PipelineError


@dataclass(frozen=True, kw_only=True)
class Part:
    """What of a document lies in one sequence of a corpus."""

    id: str
    source: str
    shard: str
    """The shard's file name."""
    row: int
    """The sequence in that shard."""
    first_token: int
    """Where in the sequence the part begins."""
    num_tokens: int
    """Its length, end-of-text included."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A part of a document as a step of the run trained on it."""

    step: int
    """As in the journal and in checkpoints' names: the first step is 1."""
    position: int
    """Place of the sequence in the order of the run."""
    epoch: int
    """Of the part's source, counted from 0."""
    part: Part


Sidecars = Callable[[ShardRecord], Path]
"""Gives a shard's verified sidecar. Raises PipelineError if it is not the manifest's."""


def documents_of_step(
    corpus: Path, manifest: Manifest, order: Order, batches: Batches, step: int, sidecars: Sidecars | None = None
) -> tuple[Visit, ...]:
    """What a step trained on, in order of position. Raises PipelineError if a sidecar is not the manifest's."""
    sidecars = sidecars or partial(sidecar, corpus)
    positions = np.arange(batches.first(step - 1), batches.first(step))
    ids, epochs = order.locate(positions), order.epoch_of(positions)
    visits: list[Visit] = []
    for source in np.unique(ids.source).tolist():
        shards = manifest.source_shards(manifest.sources[source].name)
        for number in np.unique(ids.shard[ids.source == source]).tolist():
            here = np.flatnonzero((ids.source == source) & (ids.shard == number))
            by_row = parts_in_rows(sidecars(shards[number]), manifest, shards[number], ids.row[here].tolist())
            visits += [
                Visit(step=step, position=int(positions[at]), epoch=int(epochs[at]), part=part)
                for at in here.tolist()
                for part in by_row[int(ids.row[at])]
            ]
    return tuple(sorted(visits, key=lambda visit: (visit.position, visit.part.first_token)))


def document_ids(
    corpus: Path, manifest: Manifest, order: Order, batches: Batches, steps: Sequence[int]
) -> dict[str, list[str]]:
    """Source -> ids of the documents that some steps train on, each once, sorted."""
    found: dict[str, set[str]] = {}
    sidecars = cache(partial(sidecar, corpus))  # neighbouring steps read the same shards: each is verified once
    for step in steps:
        for visit in documents_of_step(corpus, manifest, order, batches, step, sidecars):
            found.setdefault(visit.part.source, set()).add(visit.part.id)
    return {source: sorted(ids) for source, ids in sorted(found.items())}


def steps_of_document(
    corpus: Path,
    manifest: Manifest,
    order: Order,
    batches: Batches,
    source: str,
    document_id: str,
    until_step: int,
) -> tuple[Visit, ...] | None:
    """The steps up to `until_step` that train on a document, in their order; None if the source's shards do not hold
    it."""
    at = [one.name for one in manifest.sources].index(source)
    numbered = find_document(corpus, manifest, source, document_id)
    if not numbered:
        return None
    ids = SequenceIds(
        source=np.full(len(numbered), at),
        shard=np.asarray([number for number, _ in numbered]),
        row=np.asarray([part.row for _, part in numbered]),
    )
    end = batches.first(until_step)
    visits = [
        Visit(step=batches.step_at(position) + 1, position=position, epoch=epoch, part=part)
        for epoch in range(order.epochs_before(at, end))
        for position, (_, part) in zip(order.positions_of(ids, epoch).tolist(), numbered, strict=True)
        if 0 <= position < end  # a visit that the run skips stands at -1
    ]
    return tuple(sorted(visits, key=lambda visit: (visit.position, visit.part.first_token)))


def parts_in_rows(
    docs: Path, manifest: Manifest, shard: ShardRecord, rows: Sequence[int]
) -> dict[int, tuple[Part, ...]]:
    """The documents in some sequences of a shard, each in order. Only the sidecar's row groups that cover them are
    read."""
    length = manifest.sequence_length
    table = documents_of_rows(docs, [range(row, row + 1) for row in rows])
    starts, ends = stream_spans(table, length)
    found = {}
    for row in rows:
        first = int(np.searchsorted(ends, row * length, side="right"))
        last = int(np.searchsorted(starts, (row + 1) * length, side="left"))
        names = table["id"].slice(first, last - first).to_pylist()
        found[row] = tuple(
            part_in_row(name, shard, start, end, row, length)
            for name, start, end in zip(names, starts[first:last].tolist(), ends[first:last].tolist(), strict=True)
        )
    return found


def documents_of_rows(docs: Path, some: Sequence[range]) -> pa.Table:
    """The sidecar's row groups that tell of some stretches of sequences, in order."""
    with pq.ParquetFile(docs) as file:
        first_rows = [
            file.metadata.row_group(group).column(2).statistics.min for group in range(file.metadata.num_row_groups)
        ]
        groups = sorted({group for rows in some for group in groups_of_rows(first_rows, rows)})
        return file.read_row_groups(groups, columns=["id", "row", "first_token", "length"])


def groups_of_rows(first_rows: Sequence[int], rows: range) -> range:
    """The row groups that may tell of neighbouring sequences, given the sequence in which each group's first document
    begins: from the last that begins before the first of them, since its last document may reach into it, to the last
    that begins in the last of them."""
    return range(max(0, bisect_left(first_rows, rows.start) - 1), bisect_left(first_rows, rows.stop))


def stream_spans(table: pa.Table, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where in the shard's tokens each document begins and ends."""
    row, first_token, tokens = (table[name].to_numpy().astype(np.int64) for name in ("row", "first_token", "length"))
    starts = row * length + first_token
    return starts, starts + tokens


def part_in_row(document_id: str, shard: ShardRecord, start: int, end: int, row: int, length: int) -> Part:
    """What of a document at [start, end) of the shard's tokens lies in a row."""
    first, last = max(start, row * length), min(end, (row + 1) * length)
    return Part(
        id=document_id,
        source=shard.source,
        shard=shard.name,
        row=row,
        first_token=first - row * length,
        num_tokens=last - first,
    )


def find_document(corpus: Path, manifest: Manifest, source: str, document_id: str) -> list[tuple[int, Part]]:
    """(number of the shard, part) of each sequence that holds some of a document; empty if there is no such.

    Two documents with one id are both found.
    """
    [record] = (one for one in manifest.sources if one.name == source)
    key = document_key(SHUFFLE, manifest.seed, source, document_id)
    rows = rows_of_key(cells(corpus, record), key, manifest.sequence_length)
    full, shards = manifest.sequences_per_shard, manifest.source_shards(source)
    return [
        (number, part)
        for number in range(rows.start // full, -(-rows.stop // full) if rows else 0)
        for part in parts_of_document(
            corpus, manifest, shards[number], document_id, within(rows, number * full, shards[number].num_sequences)
        )
    ]


def first_ids(corpus: Path, manifest: Manifest, source: str) -> list[str]:
    """The ids of documents with which a source's first shard begins, as many as one reading gives."""
    shards = manifest.source_shards(source)
    if not shards:
        return []
    ids: list[str] = documents_of_rows(sidecar(corpus, shards[0]), [range(1)])["id"].to_pylist()
    return ids


def rows_of_key(starts: Int64s, key: int, length: int) -> range:
    """The sequences of a source that hold the documents of a key's cell, given where in its stream each cell begins."""
    [cell] = cell_of(np.asarray([key], dtype=np.uint64), len(starts) - 1).tolist()
    first, end = int(starts[cell]), int(starts[cell + 1])
    return range(first // length, -(-end // length)) if first < end else range(0)


def within(rows: range, first: int, count: int) -> range:
    """Those of the rows that are among `count` rows from `first` on, counted from it."""
    return range(max(0, rows.start - first), min(count, rows.stop - first))


def parts_of_document(
    corpus: Path, manifest: Manifest, shard: ShardRecord, document_id: str, rows: range
) -> list[Part]:
    """A document's parts in one shard, looked for in some of its sequences."""
    length = manifest.sequence_length
    table = documents_of_rows(sidecar(corpus, shard), [rows])
    starts, ends = stream_spans(table, length)
    found = [place for place, one in enumerate(table["id"].to_pylist()) if one == document_id]
    return [
        part_in_row(document_id, shard, start, end, row, length)
        for start, end in zip(starts[found].tolist(), ends[found].tolist(), strict=True)
        for row in range(start // length, -(-end // length))
    ]


def cells(corpus: Path, source: SourceRecord) -> Int64s:
    """Where in a source's stream each cell begins, and the last ends."""
    path = corpus / "shards" / cells_name(source.name)
    starts: Int64s = np.load(verified(path, source.cells_sha256), mmap_mode="r", allow_pickle=False)
    return starts


def is_held_out(corpus: Path, manifest: Manifest, source: str, document_id: str) -> bool:
    """Whether a document was kept from training."""
    return any(
        len(pq.read_table(corpus / "heldout" / record.name, columns=["id"], filters=[("id", "=", document_id)])) > 0
        for record in manifest.heldout
        if record.source == source
    )


def sidecar(corpus: Path, shard: ShardRecord) -> Path:
    """The path of a shard's, verified. Raises PipelineError if it is not the manifest's."""
    return verified(corpus / "shards" / sidecar_name(shard.name), shard.docs_sha256)


def verified(path: Path, sha256: str) -> Path:
    """The path. Raises PipelineError if the file's bytes are not those that the manifest recorded."""
    if not path.is_file() or sha256_file(path) != sha256:
        raise PipelineError(f"{path} is missing or does not match the manifest; build the corpus again: headrace prep")
    return path
