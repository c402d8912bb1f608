"""From encoded parts to the corpus's own files: shards with their sidecars, and the held-out documents.

A shard's task knows by prefix sums which cells its stretch of the stream lies in. It reads those cells of all parts,
sorts their documents, and writes what is the shard's; a cell at a border is read by both neighbours. In memory are the
tokens of one shard and of its cells at the borders.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.files import atomic_file, sha256_file, write_record
from data_prep.manifest import HeldoutRecord, ShardRecord, sidecar_name
from data_prep.pack import Int64s, ShardSpan, Tokens, cell_start, cells_of_span, parts_in_span, shuffled
from data_prep.parts import INDEX, Work, load_array, load_raw, load_table
from data_prep.shards import ShardWriter, shard_name, write_heldout, write_sidecar
from data_prep.tokenizer import TokenizerFacts


def write_shard(
    work: Work,
    record: Path,
    source: str,
    span: ShardSpan,
    cell_tokens: Sequence[int],
    parts: Sequence[str],
    facts: TokenizerFacts,
) -> ShardRecord:
    """Writes one shard and its sidecar. `parts` are the names of all encoded parts of the source."""
    path = work.output / "shards" / shard_name(source, span.number)
    cells = cells_of_span(span, cell_tokens)
    documents, lengths, ids = _sorted_cells(work, cells, len(cell_tokens), parts, facts)
    ends = sum(cell_tokens[: cells.start]) + np.cumsum(lengths)
    inside = parts_in_span(ends - lengths, ends, span, work.config.sequence_length)
    with atomic_file(path) as file:
        writer = ShardWriter(file, work.config.sequence_length, facts.end_of_text_id)
        for i in inside.index.tolist():
            start = int(ends[i] - lengths[i])
            writer.write(documents[i][max(0, span.first_token - start) : span.end_token - start])
        sha256 = writer.finish()
    assert writer.num_sequences == span.num_sequences, f"{path} has {writer.num_sequences} sequences, not as planned"
    table = pa.table(
        {
            "id": ids.take(pa.array(inside.index)),
            "source": pa.repeat(source, len(inside.index)),
            "row": inside.row,
            "first_token": inside.first_token,
            "length": inside.length,
        }
    )
    sidecar = path.with_name(sidecar_name(path.name))
    with atomic_file(sidecar) as file:
        write_sidecar(file, table)
    done = ShardRecord(
        name=path.name,
        source=source,
        num_sequences=span.num_sequences,
        num_documents=len(table),
        size_bytes=writer.size_bytes,
        sha256=sha256,
        docs_sha256=sha256_file(sidecar),
    )
    write_record(record, done)
    return done


def _sorted_cells(
    work: Work, cells: range, num_cells: int, parts: Sequence[str], facts: TokenizerFacts
) -> tuple[list[Tokens], Int64s, pa.ChunkedArray]:
    """(tokens, lengths, ids) of the documents of neighbouring cells, in shuffled order."""
    first_key, end_key = cell_start(cells.start, num_cells), cell_start(cells.stop, num_cells)
    indexes, tokens, ids = [np.zeros(0, dtype=INDEX)], [], [pa.chunked_array([], type=pa.string())]
    for part in parts:
        index = load_array(work.encoded(facts.backend, part, "index.npy"))
        first, end = (
            int(np.searchsorted(index["shuffle"], np.uint64(key))) if key < 2**64 else len(index)
            for key in (first_key, end_key)
        )
        if first == end:
            continue
        index = index[first:end]
        start, count = int(index["start"][0]), int(index["length"].sum())
        stream = load_raw(work.encoded(facts.backend, part, "tokens"), facts.token_dtype, start, count)
        tokens += [stream[s : s + n] for s, n in zip(index["start"] - start, index["length"], strict=True)]
        ids.append(load_table(work.encoded(facts.backend, part, "ids.arrow"))["id"].slice(first, end - first))
        indexes.append(index)
    index = np.concatenate(indexes)
    order = shuffled(index["shuffle"], index["high"], index["low"])
    all_ids = pa.chunked_array([chunk for one in ids for chunk in one.chunks], type=pa.string())
    return [tokens[i] for i in order.tolist()], index["length"][order].astype(np.int64), all_ids.take(pa.array(order))


def write_heldout_documents(
    work: Work, record: Path, source: str, parts: Sequence[str], facts: TokenizerFacts
) -> HeldoutRecord:
    """Writes a source's held-out documents, sorted by id, then text."""
    tables = [load_table(work.encoded(facts.backend, part, "heldout.arrow")) for part in parts]
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
    write_record(record, done)
    return done


def _text_bytes(column: pa.ChunkedArray) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(pc.binary_length(column)).as_py() or 0)
