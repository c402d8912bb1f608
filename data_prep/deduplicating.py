"""The tasks that remove duplicates: of documents over the whole corpus, of lines inside a source.

    hashes of all parts --bucket--> exact duplicates ------------------------------\
    band keys of all parts --band, bucket--> pairs --joined--> near-duplicates -----> settle: what is left of each part
    lines of a source's parts --bucket--> lines that were there before -------------/

Each bucket's task reads its stretch of every part's sorted file. What survives is the first in the order of the corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep import keys, minhash
from data_prep.dedup import as_drops, bucket_slice, drops_of, duplicates, places_of
from data_prep.files import digest
from data_prep.heldout import extremes
from data_prep.lines import line_hashes, repeated_lines, without_lines
from data_prep.parts import DROPPED, DUPLICATE_REASONS, DedupRecord, LinesRecord, NearRecord, Part, SettleRecord
from data_prep.texts import Texts, blank, take, texts_to_arrow
from data_prep.work import Work

LINE = np.dtype([("hash", "<u8"), ("row", "<u4"), ("line", "<u4")])
"""A line of a document that is left: its hash, the document's row among those left, its number; sorted by hash."""
LINE_DROP = np.dtype([("part", "<u4"), ("row", "<u4"), ("line", "<u4")])


@dataclass(frozen=True)
class Drops:
    """The names of the files that say what is dropped of the parts."""

    exact: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def _joined(arrays: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=dtype), *arrays])


def find_duplicates(work: Work, name: str, bucket: int, buckets: int, parts: str) -> DedupRecord:
    """Decides who survives among the documents of a bucket of hashes; writes the places of the others."""
    drops, clusters = duplicates(
        (number, bucket_slice(work.load_array(part.keys, "hashes.npy"), "high", bucket, buckets))
        for number, part in enumerate(work.read_parts(parts))
    )
    work.save_array(name, "npy", drops)
    return work.save_record(name, DedupRecord(num_drops=len(drops), clusters=clusters))


def find_near_pairs(work: Work, name: str, band: int, bucket: int, buckets: int, parts: str) -> DedupRecord:
    """Writes the pairs of documents that agree in a band, for one bucket of its keys."""
    found, places = [], []
    for number, part in enumerate(work.read_parts(parts)):
        entries = bucket_slice(work.load_array(part.keys, "bands.npy")[band], "key", bucket, buckets)
        found.append(entries["key"])
        places.append(places_of(number, entries["row"]))
    pairs = minhash.pairs(_joined(found, np.uint64), _joined(places, np.int64))
    work.save_array(name, "npy", pairs)
    return work.save_record(name, DedupRecord(num_drops=len(pairs)))


def join_near_pairs(work: Work, name: str, pairs: Sequence[str], exact: Sequence[str]) -> NearRecord:
    """Joins pairs to clusters, some files at a time; writes the places of all but the first document of each cluster.
    Exact duplicates are left out: they are dropped already."""
    clusters = minhash.clusters(np.zeros((0, 2), dtype=np.int64))
    for one in pairs:
        clusters = minhash.clusters(np.concatenate([clusters.edges, work.load_array(one, "npy")]))
    drops = as_drops(clusters.places[clusters.places != clusters.firsts])
    for one in exact:
        drops = np.setdiff1d(drops, work.load_array(one, "npy"), assume_unique=True)
    work.save_array(name, "npy", drops)
    return work.save_record(name, NearRecord(num_drops=len(drops), clusters=clusters.sizes))


def hash_lines(work: Work, name: str, number: int, part: Part, drops: Drops) -> LinesRecord:
    """Writes the hashes of the lines of those documents that are no duplicates, sorted."""
    table = work.load_array(part.keys, "keys.npy")
    left = table["row"][_reasons(work, number, len(table), drops) < 0]
    line_dedup = work.source(part).line_dedup
    assert line_dedup is not None
    found = line_hashes(_texts(work, part, left), line_dedup.min_characters)
    lines = np.empty(len(found.hashes), dtype=LINE)
    lines["hash"], lines["row"], lines["line"] = found.hashes, found.documents, found.lines
    work.save_array(name, "npy", lines[np.lexsort((lines["line"], lines["row"], lines["hash"]))])
    return work.save_record(name, LinesRecord(num_lines=len(lines)))


def find_repeated_lines(
    work: Work, name: str, bucket: int, buckets: int, hashed: Sequence[tuple[int, str]]
) -> DedupRecord:
    """Writes which lines of a bucket were there before, given the number of each part of a source and its lines."""
    pieces = [(number, bucket_slice(work.load_array(one, "npy"), "hash", bucket, buckets)) for number, one in hashed]
    hashes = _joined([lines["hash"] for _, lines in pieces], np.uint64)
    places = _joined([places_of(number, lines["row"]) for number, lines in pieces], np.int64)
    lines = _joined([lines["line"] for _, lines in pieces], np.int32)
    again = repeated_lines(hashes, places, lines)
    drops = np.empty(int(again.sum()), dtype=LINE_DROP)
    drops["part"], drops["row"], drops["line"] = places[again] >> 32, places[again] & 0xFFFFFFFF, lines[again]
    work.save_array(name, "npy", np.sort(drops, order=("part", "row", "line")))
    return work.save_record(name, DedupRecord(num_drops=len(drops)))


def settle(work: Work, name: str, number: int, part: Part, drops: Drops) -> SettleRecord:
    """Writes the keys of the documents that are left of a part, and their texts if lines were taken out."""
    table = work.load_array(part.keys, "keys.npy")
    dropped = np.empty(len(table), dtype=DROPPED)
    reasons = _reasons(work, number, len(table), drops)
    left, docs = table[reasons < 0], part.docs
    if drops.lines:
        docs = name
        left, is_blank = _without_repeated_lines(work, name, number, part, left, drops.lines)
        reasons[np.flatnonzero(reasons < 0)[is_blank]] = DUPLICATE_REASONS.index("repeated_lines")
    dropped["row"], dropped["reason"] = table["row"], reasons.astype(np.uint8)
    dropped = dropped[reasons >= 0]
    work.save_array(name, "dropped.npy", dropped)
    work.save_array(name, "keys.npy", left)
    counts = np.bincount(dropped["reason"], minlength=len(DUPLICATE_REASONS)).tolist()
    done = SettleRecord(
        part=Part(
            source=part.source, docs=docs, keys=name, num_documents=len(left), text_bytes=int(left["size"].sum())
        ),
        dropped={reason: count for reason, count in zip(DUPLICATE_REASONS, counts, strict=True) if count},
        extremes=extremes(left),
        content=digest([docs, keys.content_digest(left)]),
    )
    return work.save_record(name, done)


def _reasons(work: Work, number: int, num_documents: int, drops: Drops) -> npt.NDArray[np.int8]:
    """Which kind of duplicate each chosen document of a part is, as a place in `DUPLICATE_REASONS`; -1 if none."""
    reasons = np.full(num_documents, -1, dtype=np.int8)
    for reason, names in enumerate((drops.exact, drops.near)):
        for one in names:
            reasons[drops_of(work.load_array(one, "npy"), number)] = reason
    return reasons


def _texts(work: Work, part: Part, rows: npt.NDArray[Any]) -> Texts:
    return take(work.load_texts(part.docs), rows.astype(np.int64))


def _without_repeated_lines(
    work: Work, name: str, number: int, part: Part, table: npt.NDArray[np.void], repeated: Sequence[str]
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.bool_]]:
    """(keys of the documents with something left, which of the given ones have nothing); writes the former's texts."""
    drops = _joined(
        [line_drops[line_drops["part"] == number] for line_drops in (work.load_array(one, "npy") for one in repeated)],
        LINE_DROP,
    )
    drops = np.sort(drops, order=("row", "line"))
    texts = without_lines(
        _texts(work, part, table["row"]), drops["row"].astype(np.int64), drops["line"].astype(np.int32)
    )
    is_blank = blank(texts)
    rows = np.flatnonzero(~is_blank)
    texts, ids = (
        take(texts, rows),
        work.load_table(part.docs, "docs.arrow")["id"].take(pa.array(table["row"][rows])),
    )
    work.save_table(name, "docs.arrow", pa.table({"id": ids, "text": texts_to_arrow(texts)}))
    table = table[rows].copy()
    table["row"], table["size"] = np.arange(len(rows)), texts.sizes
    table["high"], table["low"] = keys.content_halves_of(texts)
    return table, is_blank
