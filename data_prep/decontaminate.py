"""Contamination: how many n-grams of a document stand in the items of evaluation tasks.

    items of tasks  -> Index: hashes of their 13-grams, and whose they are
    words of texts  -> 13-grams -> filter, which clean text does not pass -> Index -> a count a document and task

The 13-grams of words without case and punctuation are GPT-3's (Brown et al. 2020, https://arxiv.org/abs/2005.14165,
appendix C), and so are 8 words as the least that says anything. lm-evaluation-harness's own decontamination is a stub.
Unlike GPT-3, n-grams that many documents share are not forgiven: what a count means is for the thresholds to say.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import orjson
import zstandard

from data_prep.errors import DataMistake
from data_prep.files import atomic_file, read_record, write_record
from data_prep.native import kernel
from data_prep.shingles import Hashes, Uint64s, ngram_hashes, word_hashes
from data_prep.texts import Int64s, texts_of

NGRAM_WORDS = 13
SHORTEST_WORDS = 8
FILTER_BITS = 16
"""For each n-gram of the index: with two of them set, about one foreign n-gram in 80 passes."""

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Task:
    name: str
    items: int
    too_short: int
    """Items of fewer than 8 words: nothing is looked for."""


@dataclass(frozen=True, kw_only=True)
class IndexRecord:
    tasks: tuple[Task, ...]
    tables: tuple[tuple[int, int], ...]
    """(words, entries) for each length of n-grams: the full one last, before it those of items with fewer words."""


@dataclass(frozen=True, kw_only=True)
class Index:
    record: IndexRecord
    hashes: Uint64s
    """Table by table, ascending; an n-gram that several tasks hold stands here once for each."""
    owners: Int32s
    """The position in `record.tasks` of the task that holds the n-gram beside it."""
    filters: tuple[Uint64s, ...]
    """What clean text does not pass: a table's Bloom filter, two bits of one word for each hash.

    One a table, as the few short items' fits a core's own cache.
    """


def build_index(tasks: Mapping[str, Iterable[str]], ngram: int = NGRAM_WORDS) -> Index:
    """All n-grams of the tasks' items (an item is prompt and answers as one text).

    An item of fewer than `ngram` words but at least 8 is one n-gram, of all its words; a shorter one is counted as too
    short.
    """
    shortest = min(SHORTEST_WORDS, ngram)
    about: list[Task] = []
    pieces = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int32))]
    for position, (name, items) in enumerate(tasks.items()):
        words = word_hashes(texts_of([item.encode() for item in items]))
        ngrams = ngram_hashes(words, ngram, shortest)
        about.append(Task(name=name, items=len(words), too_short=int(np.count_nonzero(words.counts < shortest))))
        values, places = np.unique(ngrams.values, return_index=True)
        lengths = np.repeat(np.minimum(words.counts, ngram), ngrams.counts)[places]
        pieces.append((lengths, values, np.full(len(values), position, dtype=np.int32)))
    lengths, hashes, owners = (np.concatenate(column) for column in zip(*pieces, strict=True))
    order = np.lexsort((owners, hashes, lengths))
    tables = tuple(zip(*(column.tolist() for column in np.unique(lengths, return_counts=True)), strict=True))
    return _index(IndexRecord(tasks=tuple(about), tables=tables), hashes[order], owners[order])


def overlaps(words: Hashes, index: Index) -> Int32s:
    """How many n-grams of each document are in each task, (documents, tasks). One that occurs twice counts twice."""
    counts = np.zeros((len(words), len(index.record.tasks)), dtype=np.int32)
    for (length, _), entries, bits in zip(index.record.tables, _tables(index.record), index.filters, strict=True):
        ngrams = ngram_hashes(words, length)
        _count(ngrams.values, ngrams.offsets, bits, index.hashes[entries], index.owners[entries], counts)
    return counts


def save_index(folder: Path, index: Index) -> None:
    """Two .npy files and, last, the record that says that they are whole."""
    for name, column in (("hashes", index.hashes), ("owners", index.owners)):
        with atomic_file(folder / f"{name}.npy", sync=False) as file:
            np.save(file, column, allow_pickle=False)
    write_record(folder / "index.json", index.record)


def load_index(folder: Path) -> Index:
    """Maps the columns into memory, so workers on a machine share them. Raises FileNotFoundError if there is none."""
    record = read_record(IndexRecord, folder / "index.json")
    hashes, owners = (np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ("hashes", "owners"))
    return _index(record, hashes, owners)


def read_tasks(paths: Mapping[str, str], field: str | None = None) -> dict[str, list[str]]:
    """Each task's items from jsonl (also .gz, .zst), at any fsspec URL or pattern of them.

    An item is all strings of a record, also those inside lists and objects, joined by newlines; or one field's. Raises
    DataMistake, naming file and line, where a line is no JSON object or has nothing there.
    """
    return {name: [_item(*line, field) for line in _task_lines(name, path)] for name, path in paths.items()}


def _task_lines(name: str, path: str) -> Iterator[tuple[str, bytes]]:
    """Each line that is not blank, behind its place."""
    files = fsspec.open_files(path, "rb", compression="infer")
    if not files:
        raise DataMistake(f"evaluation task {name}: no file at {path}")
    for file in files:
        try:
            with file as opened:
                for number, line in enumerate(opened, 1):
                    if not line.isspace():
                        yield f"evaluation task {name}: {file.path}, line {number}", line
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise DataMistake(f"evaluation task {name}: {file.path} cannot be read: {error}") from error


def _item(place: str, line: bytes, field: str | None) -> str:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DataMistake(f"{place} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataMistake(f"{place} is not a JSON object")
    item = "\n".join(_strings(record if field is None else record.get(field)))
    if not item:
        raise DataMistake(f"{place} has no text in {'any field' if field is None else f'field {field!r}'}")
    return item


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _index(record: IndexRecord, hashes: Uint64s, owners: Int32s) -> Index:
    filters = tuple(_filter(hashes[entries]) for entries in _tables(record))
    return Index(record=record, hashes=hashes, owners=owners, filters=filters)


def _tables(record: IndexRecord) -> list[slice]:
    """Where each table's entries are in the columns."""
    ends = list(accumulate(entries for _, entries in record.tables))
    return [slice(begin, end) for begin, end in pairwise([0, *ends])]


def _filter(hashes: Uint64s) -> Uint64s:
    words = 1 << max(10, (len(hashes) * FILTER_BITS // 64).bit_length())
    bits = np.zeros(words, dtype=np.uint64)
    _set_bits(bits, hashes)
    return bits


@kernel
def _word(bits: Uint64s, value: np.uint64) -> np.uint64:
    return (value >> np.uint64(12)) & np.uint64(len(bits) - 1)


@kernel
def _two_bits(value: np.uint64) -> np.uint64:
    low, high = value & np.uint64(63), (value >> np.uint64(6)) & np.uint64(63)
    return (np.uint64(1) << low) | (np.uint64(1) << high)


@kernel
def _set_bits(bits: Uint64s, hashes: Uint64s) -> None:
    for value in hashes:
        bits[_word(bits, value)] |= _two_bits(value)


@kernel
def _count(ngrams: Uint64s, offsets: Int64s, bits: Uint64s, hashes: Uint64s, owners: Int32s, counts: Int32s) -> None:
    for document in range(len(offsets) - 1):
        for place in range(offsets[document], offsets[document + 1]):
            value = ngrams[place]
            wanted = _two_bits(value)
            if bits[_word(bits, value)] & wanted != wanted:
                continue
            entry = np.searchsorted(hashes, value)
            while entry < len(hashes) and hashes[entry] == value:
                counts[document, owners[entry]] += 1
                entry += 1
