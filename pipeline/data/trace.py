"""Every token has a parent: which documents a step trained on, and which steps trained on a document.

    step ──Order.locate──> (source, shard, row) ──sidecar──> documents
    document's id ──shuffle key──> shard, rows ──Order.positions_of──> positions ──> steps

Neither way scans anything. A source's documents are sorted by their shuffle key, which is a hash of the id, over its
shards and inside each. So an id is found by binary search: over shards by the first document of each, then over the row
groups of one sidecar, then inside one row group. The steps are the inverse of the order, in closed form.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.files import sha256_file
from data_prep.keys import SHUFFLE, document_key
from data_prep.manifest import Manifest, ShardRecord, sidecar_name
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


def documents_of_step(
    corpus: Path, manifest: Manifest, order: Order, global_batch_size: int, step: int
) -> tuple[Visit, ...]:
    """What a step trained on, in order of position. Raises PipelineError if a sidecar is not the manifest's."""
    positions = np.arange((step - 1) * global_batch_size, step * global_batch_size)
    ids, epochs = order.locate(positions), order.epoch_of(positions)
    visits: list[Visit] = []
    for source in np.unique(ids.source).tolist():
        shards = manifest.source_shards(manifest.sources[source].name)
        for number in np.unique(ids.shard[ids.source == source]).tolist():
            here = np.flatnonzero((ids.source == source) & (ids.shard == number))
            by_row = parts_in_rows(corpus, manifest, shards[number], ids.row[here].tolist())
            visits += [
                Visit(step=step, position=int(positions[at]), epoch=int(epochs[at]), part=part)
                for at in here.tolist()
                for part in by_row[int(ids.row[at])]
            ]
    return tuple(sorted(visits, key=lambda visit: (visit.position, visit.part.first_token)))


def steps_of_document(
    corpus: Path,
    manifest: Manifest,
    order: Order,
    global_batch_size: int,
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
    end = until_step * global_batch_size
    visits = [
        Visit(step=position // global_batch_size + 1, position=position, epoch=epoch, part=part)
        for epoch in range(order.epochs_before(at, end))
        for position, (_, part) in zip(order.positions_of(ids, epoch).tolist(), numbered, strict=True)
        if position < end
    ]
    return tuple(sorted(visits, key=lambda visit: (visit.position, visit.part.first_token)))


def parts_in_rows(
    corpus: Path, manifest: Manifest, shard: ShardRecord, rows: Sequence[int]
) -> dict[int, tuple[Part, ...]]:
    """The documents in some sequences of a shard, each in order. Only the row groups that cover them are read."""
    length = manifest.sequence_length
    with pq.ParquetFile(verified_sidecar(corpus, shard)) as file:
        first_rows = [
            file.metadata.row_group(group).column(2).statistics.min for group in range(file.metadata.num_row_groups)
        ]
        groups = sorted({group for row in rows for group in groups_of_row(first_rows, row)})
        table = file.read_row_groups(groups, columns=["id", "row", "first_token", "length"])
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


def groups_of_row(first_rows: Sequence[int], row: int) -> range:
    """The row groups that may tell of a sequence, given the sequence in which each group's first document begins: from
    the last that begins before the sequence, since its last document may reach into it, to the last that begins in
    it."""
    return range(max(0, bisect_left(first_rows, row) - 1), bisect_right(first_rows, row))


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
    shards = manifest.source_shards(source)

    def key_of(one: str) -> int:
        return document_key(SHUFFLE, manifest.seed, source, one)

    @cache
    def first_key(number: int) -> int:
        with pq.ParquetFile(sidecar(corpus, shards[number])) as file:
            return key_of(first_id(file, 0))

    key = key_of(document_id)
    return [
        (number, part)
        for number in runs_with(key, len(shards), first_key)
        for part in parts_of_document(corpus, manifest, shards[number], document_id, key_of)
    ]


def parts_of_document(
    corpus: Path, manifest: Manifest, shard: ShardRecord, document_id: str, key_of: Callable[[str], int]
) -> list[Part]:
    """A document's parts in one shard, by binary search in its sidecar."""
    key, length = key_of(document_id), manifest.sequence_length
    parts: list[Part] = []
    with pq.ParquetFile(verified_sidecar(corpus, shard)) as file:
        groups = runs_with(key, file.metadata.num_row_groups, lambda group: key_of(first_id(file, group)))
        for group in groups:
            table = file.read_row_group(group, columns=["id", "row", "first_token", "length"])
            ids = table["id"]
            places, key_at = range(len(table)), lambda at, ids=ids: key_of(ids[at].as_py())
            first, last = bisect_left(places, key, key=key_at), bisect_right(places, key, key=key_at)
            table = table.slice(first, last - first)
            for one, start, end in zip(table["id"].to_pylist(), *stream_spans(table, length), strict=True):
                if one == document_id:
                    rows = range(int(start) // length, -(-int(end) // length))
                    parts += [part_in_row(one, shard, int(start), int(end), row, length) for row in rows]
    return parts


def runs_with(key: int, num_runs: int, first_key: Callable[[int], int]) -> range:
    """Which of several runs, each sorted and one after another, may hold a key, given the first key of each: those that
    begin with it, and the one before them. Asks for about log2(num_runs) of the first keys."""
    first = bisect_left(range(num_runs), key, key=first_key)
    return range(max(0, first - 1), bisect_right(range(num_runs), key, lo=first, key=first_key))


def first_id(file: pq.ParquetFile, group: int) -> str:
    """The id of a row group's first document."""
    batch = next(file.iter_batches(batch_size=1, row_groups=[group], columns=["id"]))
    return str(batch["id"][0].as_py())


def is_held_out(corpus: Path, manifest: Manifest, source: str, document_id: str) -> bool:
    """Whether a document was kept from training."""
    return any(
        len(pq.read_table(corpus / "heldout" / record.name, columns=["id"], filters=[("id", "=", document_id)])) > 0
        for record in manifest.heldout
        if record.source == source
    )


def sidecar(corpus: Path, shard: ShardRecord) -> Path:
    return corpus / "shards" / sidecar_name(shard.name)


def verified_sidecar(corpus: Path, shard: ShardRecord) -> Path:
    """The sidecar's path. Raises PipelineError if its bytes are not those that the manifest recorded."""
    path = sidecar(corpus, shard)
    if not path.is_file() or sha256_file(path) != shard.docs_sha256:
        raise PipelineError(f"{path} is missing or does not match the manifest; build the corpus again: headrace prep")
    return path
