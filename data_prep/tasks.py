"""What one task of each stage does. Each writes its files, then its record, and returns the record.

Tasks share nothing but files and are pure in what they write, so it does not matter where they run, how often, or
whether one that was thought dead finishes behind its successor.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep import dedup, keys
from data_prep.documents import BadDocument, read_slice
from data_prep.errors import DataMistake
from data_prep.files import write_atomic, write_record
from data_prep.heldout import Bound, find_bound, held_out
from data_prep.inputs import Unit
from data_prep.pack import cell_of, shuffled, with_end_of_text
from data_prep.parts import (
    DOCUMENTS,
    IDS,
    INDEX,
    KEYS,
    DedupRecord,
    EncodeRecord,
    Part,
    ReadRecord,
    SampleRecord,
    Work,
    load_array,
    load_table,
    save_array,
    save_raw,
    save_table,
)
from data_prep.plan import read_tokenizer
from data_prep.refine import refiner
from data_prep.tokenizer import CHECKED_SHARE, TokenizerFacts, describe, load_encoder, train

SAMPLE_DOCUMENT_BYTES = 1_000_000
"""What the tokenizer's training sees of one document at most."""


def read_unit(work: Work, record: Path, number: int, unit: Unit) -> ReadRecord:
    """Reads, cleans and filters a unit; writes the kept documents with their keys and hashes."""
    source = work.config.sources[unit.source]
    refine = refiner(source)
    seeds = [keys.purpose_seed(purpose, work.config.seed, source.name) for purpose in keys.PURPOSES]
    parts: list[Part] = []
    dropped: Counter[str] = Counter()
    edited: Counter[str] = Counter()
    pii: Counter[str] = Counter()
    documents_read = held_bytes = 0
    ids: list[str] = []
    texts: list[bytes] = []
    rows: list[tuple[int, ...]] = []

    def end_part() -> None:
        name = f"{number:06d}-{len(parts):04d}"
        _save_documents(work, name, ids, texts, rows)
        parts.append(Part(name=name, source=unit.source, num_documents=len(ids), text_bytes=held_bytes))

    for document in (document for piece in unit.slices for document in read_slice(piece, source)):
        documents_read += 1
        if isinstance(document, BadDocument):
            dropped[document.reason] += 1
            continue
        refined = refine(document.text)
        pii.update(refined.pii)
        if refined.reason:
            dropped[refined.reason] += 1
            continue
        edited.update(refined.edited_by)
        data = refined.text.encode()
        if held_bytes and held_bytes + len(data) > work.config.unit_bytes:
            end_part()
            ids, texts, rows, held_bytes = [], [], [], 0
        ids.append(document.id)
        texts.append(data)
        rows.append((*keys.document_keys(document.id, seeds), *keys.content_halves(data), len(data)))
        held_bytes += len(data)
    if ids:
        end_part()
    done = ReadRecord(
        parts=tuple(parts), documents_read=documents_read, dropped=dict(dropped), edited=dict(edited), pii=dict(pii)
    )
    write_record(record, done)
    return done


def _save_documents(work: Work, name: str, ids: list[str], texts: list[bytes], rows: list[tuple[int, ...]]) -> None:
    table = np.array(rows, dtype=KEYS)
    hashes = np.empty(len(table), dtype=dedup.HASH)
    hashes["high"], hashes["low"], hashes["row"] = table["high"], table["low"], np.arange(len(table))
    save_table(work.read(name, "docs.arrow"), pa.table({"id": ids, "text": texts}, schema=DOCUMENTS))
    save_array(work.read(name, "keys.npy"), table)
    save_array(work.read(name, "hashes.npy"), hashes[np.lexsort((hashes["low"], hashes["high"]))])


def find_duplicates(work: Work, record: Path, bucket: int, buckets: int, parts: Sequence[Part]) -> DedupRecord:
    """Decides who survives among the documents of a bucket of hashes; writes the places of the others."""

    def rank(places: list[dedup.Place]) -> list[tuple[int, str]]:
        found: dict[dedup.Place, str] = {}
        by_part: dict[int, list[int]] = {}
        for part, row in places:
            by_part.setdefault(part, []).append(row)
        for part, rows in by_part.items():
            ids = load_table(work.read(parts[part].name, "docs.arrow"))["id"].take(pa.array(rows)).to_pylist()
            found.update({(part, row): one for row, one in zip(rows, ids, strict=True)})
        return [(parts[part].source, found[part, row]) for part, row in places]

    hashes = (
        (number, dedup.bucket_slice(load_array(work.read(part.name, "hashes.npy")), bucket, buckets))
        for number, part in enumerate(parts)
    )
    drops = dedup.duplicates(hashes, rank)
    documents: dict[int, int] = {}
    text_bytes: dict[int, int] = {}
    for number in np.unique(drops["part"]).tolist():
        rows = drops["row"][drops["part"] == number]
        source = parts[number].source
        sizes = load_array(work.read(parts[number].name, "keys.npy"))["size"][rows]
        documents[source] = documents.get(source, 0) + len(rows)
        text_bytes[source] = text_bytes.get(source, 0) + int(sizes.sum())
    save_array(work.drops(bucket), drops)
    done = DedupRecord(dropped_documents=documents, dropped_bytes=text_bytes)
    write_record(record, done)
    return done


def surviving(work: Work, buckets: int, number: int, part: Part) -> tuple[Any, Any]:
    """(row, keys) of a part's documents that are no duplicates."""
    table = load_array(work.read(part.name, "keys.npy"))
    kept = np.ones(len(table), dtype=bool)
    for bucket in range(buckets):
        drops = np.load(work.drops(bucket), mmap_mode="r", allow_pickle=False)
        first, last = np.searchsorted(drops["part"], [number, number + 1])
        kept[drops["row"][first:last]] = False
    rows = np.flatnonzero(kept)
    return rows, table[rows]


def find_heldout_bound(work: Work, buckets: int, parts: Sequence[Part], source: int) -> Bound:
    """Where the held-out documents of a source end. Cheap enough for the driver: mostly the first part decides it."""
    tables = (surviving(work, buckets, number, part)[1] for number, part in enumerate(parts) if part.source == source)
    return find_bound(work.config.heldout.fraction, tables)


def sample_part(
    work: Work, record: Path, buckets: int, number: int, part: Part, bound: Bound, limit: int
) -> SampleRecord:
    """Writes those training documents whose sample key is below the limit: what the tokenizer is trained on."""
    rows, table = surviving(work, buckets, number, part)
    chosen = rows[~held_out(table, bound) & (table["sample"] <= np.uint64(limit))]
    texts = load_table(work.read(part.name, "docs.arrow"))["text"].take(pa.array(chosen)).to_pylist()
    cut = [text[:SAMPLE_DOCUMENT_BYTES].decode(errors="ignore") for text in texts]
    save_table(work.sample(part.name), pa.table({"text": pa.array(cut, pa.large_string())}))
    done = SampleRecord(text_bytes=sum(map(len, cut)))
    write_record(record, done)
    return done


def make_tokenizer(work: Work, record: Path, parts: Sequence[str]) -> TokenizerFacts:
    """Loads the tokenizer or trains it on the parts' samples, in order of place; stores it with the corpus."""
    settings = work.config.tokenizer
    if settings.train is None:
        assert settings.path is not None
        tokenizer_json = read_tokenizer(settings.path)
    else:
        texts = (text.as_py() for part in parts for text in load_table(work.sample(part))["text"])
        tokenizer_json = train(texts, settings.train.vocab_size, settings.end_of_text)
    done = describe(tokenizer_json, settings.end_of_text, settings.path or "the trained tokenizer")
    write_atomic(work.tokenizer, tokenizer_json)
    write_record(record, done)
    return done


def encode_part(
    work: Work,
    record: Path,
    buckets: int,
    number: int,
    part: Part,
    bound: Bound,
    cells: int,
    facts: TokenizerFacts,
) -> EncodeRecord:
    """Encodes a part's training documents in shuffled order; writes its held-out documents apart."""
    rows, table = surviving(work, buckets, number, part)
    documents = load_table(work.read(part.name, "docs.arrow"))
    out = held_out(table, bound)
    if out.any():
        save_table(work.encoded(facts.backend, part.name, "heldout.arrow"), documents.take(pa.array(rows[out])))
    rows, table = rows[~out], table[~out]
    order = shuffled(table["shuffle"], table["high"], table["low"])
    rows, table = rows[order], table[order]
    documents = documents.take(pa.array(rows))
    texts = documents["text"].to_pylist()

    encoder = load_encoder(work.tokenizer, facts.sha256, facts.backend)
    tokens, lengths = encoder.encode(texts)
    if (tokens == facts.end_of_text_id).any():
        raise DataMistake(
            "the tokenizer makes its end of text from ordinary text, which would fake document boundaries;"
            " set tokenizer.end_of_text to a token that only ends documents"
        )
    ends = np.cumsum(lengths)
    checked = (table["sample"] <= np.uint64(CHECKED_SHARE * 2**64)) | (np.arange(len(texts)) == 0)
    agreed = encoder.fast is None or all(
        encoder.agrees(texts[i], tokens[ends[i] - lengths[i] : ends[i]]) for i in np.flatnonzero(checked)
    )
    stream = with_end_of_text(tokens.astype(facts.token_dtype), lengths, facts.end_of_text_id)

    index = np.empty(len(texts), dtype=INDEX)
    for name in ("shuffle", "high", "low"):
        index[name] = table[name]
    index["length"] = lengths + 1
    index["start"] = np.cumsum(index["length"]) - index["length"]
    cell_tokens = np.bincount(cell_of(table["shuffle"], cells), weights=lengths + 1, minlength=cells).astype(np.int64)
    save_raw(work.encoded(facts.backend, part.name, "tokens"), stream)
    save_array(work.encoded(facts.backend, part.name, "index.npy"), index)
    save_array(work.encoded(facts.backend, part.name, "cells.npy"), cell_tokens)
    save_table(work.encoded(facts.backend, part.name, "ids.arrow"), documents.select(IDS.names))
    done = EncodeRecord(
        agreed=agreed,
        num_documents=len(texts),
        text_bytes=int(table["size"].sum()),
        num_tokens=len(stream),
        heldout_documents=int(out.sum()),
    )
    write_record(record, done)
    return done


def total_cell_tokens(work: Work, parts: Sequence[str], cells: int, facts: TokenizerFacts) -> list[int]:
    """Tokens in each cell of a source, over all its parts."""
    total = np.zeros(cells, dtype=np.int64)
    for part in parts:
        total += np.load(work.encoded(facts.backend, part, "cells.npy"), allow_pickle=False)
    return [int(one) for one in total]
