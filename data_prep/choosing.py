"""The second task: scores and thresholds to the documents that are chosen. No text is read.

empty -> language -> rules -> personal data -> evaluation data -> chosen
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep import keys
from data_prep.config import CorpusConfig, SourceConfig
from data_prep.files import digest
from data_prep.filters import decide, steps_of
from data_prep.inputs import Unit
from data_prep.parts import KEYS, Part, RefineRecord, SelectRecord
from data_prep.reading import refine_unit
from data_prep.work import Work

Columns = Mapping[str, npt.NDArray[Any]]
HASH = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4")])
"""A chosen document's content hash and its row in `keys.npy`; stored sorted by hash."""
BAND = np.dtype([("key", "<u8"), ("row", "<u4")])
"""The same for one band of its MinHash signature."""


@dataclass(frozen=True)
class Choice:
    reasons: tuple[str, ...]
    code: npt.NDArray[np.int16]
    """Place in `reasons` of why each document is dropped; -1 chooses it."""
    passed: npt.NDArray[np.bool_]
    """Whether it came as far as personal data."""
    edited: dict[str, int]
    """Edit -> chosen documents that it took lines out of."""

    def dropped(self) -> dict[str, int]:
        counts = np.bincount(self.code[self.code >= 0], minlength=len(self.reasons)).tolist()
        return {reason: count for reason, count in zip(self.reasons, counts, strict=True) if count}


def choosing(source: SourceConfig, config: CorpusConfig) -> Any:
    """What shapes the choice of a source's documents, given their scores: a JSON-able value."""
    return {
        "name": source.name,
        "seed": config.seed,
        "rules": source.rules,
        "languages": [source.languages, source.language_confidence],
        "pii": source.pii.action,
        "contamination": config.decontaminate.action if config.decontaminate else None,
        "dedup": [config.dedup.exact, config.dedup.minhash is not None],
    }


def choose(source: SourceConfig, config: CorpusConfig, columns: Columns) -> Choice:
    """Decides on every document of a part. Its reason is the first that holds."""
    reasons: list[str] = []
    code = np.full(len(columns["size"]), -1, dtype=np.int16)

    def drop(reason: str, mask: npt.NDArray[np.bool_]) -> None:
        if reason not in reasons:
            reasons.append(reason)
        code[mask & (code < 0)] = reasons.index(reason)

    drop("empty", columns["empty"])
    if source.languages:
        spoken = np.isin(columns["language"].astype(str), source.languages)
        drop("language", ~spoken | (columns["confidence"] < np.float32(source.language_confidence)))
    verdicts = decide(steps_of(source.rules), columns, len(code))
    edited = {edit: (times > 0) & (code < 0) for edit, times in verdicts.edited.items()}
    for place, reason in enumerate(verdicts.reasons):
        drop(reason, verdicts.code == place)
    passed = code < 0
    if source.pii.action == "drop":
        drop("pii", _any(columns, "pii:"))
    if config.decontaminate is not None and config.decontaminate.action == "drop":
        drop("contaminated", _any(columns, "task:"))
    return Choice(tuple(reasons), code, passed, {edit: int((mask & (code < 0)).sum()) for edit, mask in edited.items()})


def _columns_of(columns: Columns, prefix: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    return ((name.removeprefix(prefix), column) for name, column in columns.items() if name.startswith(prefix))


def _any(columns: Columns, prefix: str) -> npt.NDArray[np.bool_]:
    mask = np.zeros(len(columns["size"]), dtype=bool)
    for _, column in _columns_of(columns, prefix):
        mask |= column > 0
    return mask


def load_columns(work: Work, part: str) -> dict[str, npt.NDArray[Any]]:
    """The scores of all documents of a refined part."""
    table = work.load_table(part, "scores.arrow")
    return {name: table[name].to_numpy() for name in table.column_names}


def read_unit(work: Work, name: str, refined: str, unit: Unit) -> SelectRecord:
    """Chooses among a unit's documents; reads and scores them if no build did so before."""
    try:
        record = work.read_record(RefineRecord, refined)
    except FileNotFoundError:
        record = refine_unit(work, refined, unit)
    return select(work, name, record, unit.source)


def select(work: Work, name: str, refined: RefineRecord, source: int) -> SelectRecord:
    """Writes the keys of the chosen documents, and what the tasks that look for duplicates need, sorted."""
    settings, config = work.config.sources[source], work.config
    parts: list[Part] = []
    dropped, edited, pii, contaminated = Counter(refined.unreadable), Counter[str](), Counter[str](), Counter[str]()
    contents: list[Any] = []
    for number, part in enumerate(refined.parts):
        columns = load_columns(work, part.name)
        choice = choose(settings, config, columns)
        chosen = np.flatnonzero(choice.code < 0)
        dropped.update(choice.dropped())
        edited.update(choice.edited)
        pii.update({kind: int(column[choice.passed].sum()) for kind, column in _columns_of(columns, "pii:")})
        contaminated.update(
            {task: int((column[choice.passed] > 0).sum()) for task, column in _columns_of(columns, "task:")}
        )
        table = keys_of(work, part.name, settings.name, columns, chosen)
        contents.append([part.name, keys.content_digest(chosen)])
        parts.append(
            Part(
                source=source,
                docs=part.name,
                keys=f"{name}-{number:04d}",
                num_documents=len(table),
                text_bytes=int(table["size"].sum()),
            )
        )
        work.save_array(parts[-1].keys, "keys.npy", table)
        if config.dedup.exact:
            work.save_array(parts[-1].keys, "hashes.npy", sorted_hashes(table))
        if config.dedup.minhash is not None:
            bands = work.load_array(part.name, "bands.npy")[:, chosen]
            has_bands = work.load_array(part.name, "has_bands.npy")[chosen]
            work.save_array(parts[-1].keys, "bands.npy", sorted_bands(bands, np.flatnonzero(has_bands)))
    done = SelectRecord(
        parts=tuple(parts),
        documents_read=refined.documents_read,
        dropped=dict(dropped),
        edited=dict(+edited),
        pii=dict(+pii),
        contaminated=dict(+contaminated),
        content=digest(contents),
    )
    return work.save_record(name, done)


def keys_of(
    work: Work, part: str, source: str, columns: Columns, chosen: npt.NDArray[np.int64]
) -> npt.NDArray[np.void]:
    """`KEYS` of the chosen documents."""
    seeds = [keys.purpose_seed(purpose, work.config.seed, source) for purpose in keys.PURPOSES]
    ids = work.load_table(part, "docs.arrow")["id"].take(chosen).to_pylist()
    table = np.empty(len(chosen), dtype=KEYS)
    table["row"] = chosen
    for purpose, column in zip(keys.PURPOSES, keys.document_keys(ids, seeds), strict=True):
        table[purpose] = column
    for name in ("high", "low", "size"):
        table[name] = columns[name][chosen]
    return table


def sorted_hashes(table: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    hashes = np.empty(len(table), dtype=HASH)
    hashes["high"], hashes["low"], hashes["row"] = table["high"], table["low"], np.arange(len(table))
    return hashes[np.lexsort((hashes["low"], hashes["high"]))]


def sorted_bands(bands: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
    """(bands, documents) keys -> `BAND` (bands, rows), each band sorted by key. Documents without words have none."""
    bands = bands[:, rows]
    out = np.empty(bands.shape, dtype=BAND)
    order = np.argsort(bands, axis=1, kind="stable")
    out["key"], out["row"] = np.take_along_axis(bands, order, axis=1), rows[order]
    return out
