"""The first task: a unit of input to texts and their scores.

    slices -> documents -> clean -> language, rules' scores, edits -> personal data replaced -> MinHash -> texts, scores

Texts are read and scored once and whatever the thresholds are, also those that will be dropped; `choosing` takes the
scores only. So a changed threshold costs milliseconds a unit, and what it gives is what a build from nothing would
give, because that does the very same.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep import keys
from data_prep.clean import clean_all
from data_prep.config import CorpusConfig, SourceConfig
from data_prep.documents import read_batches
from data_prep.filters import score, scoring, steps_of
from data_prep.inputs import Unit
from data_prep.parts import RefinedPart, RefineRecord
from data_prep.texts import Texts, blank, take, texts_to_arrow
from data_prep.work import Work

if TYPE_CHECKING:
    from data_prep.decontaminate import Index

REFINE_VERSION = 2
"""Raised whenever the same input and settings would give other texts or scores."""
LANGUAGE_SAMPLE = 128
"""Of so many documents one is asked for its language if all languages are kept: for the report."""
Columns = Mapping[str, npt.NDArray[Any]]


def refining(source: SourceConfig, config: CorpusConfig, tasks_digest: str) -> Any:
    """What shapes a source's texts and scores, but for the input: a JSON-able value without any threshold."""
    return {
        "version": REFINE_VERSION,
        "unicode": unicodedata.unidata_version,
        "scoring": scoring(steps_of(source.rules)),
        "languages": bool(source.languages),
        "pii": None if source.pii.action == "off" else [source.pii.kinds, source.pii.phone_regions],
        "minhash": _bands(config),
        "contamination": [tasks_digest, config.decontaminate.ngram] if config.decontaminate else None,
        "part_bytes": config.unit_bytes,
    }


def index_tasks(work: Work) -> None:
    """Makes the index of the evaluation tasks' data that documents are compared with, if it is not there."""
    from data_prep.decontaminate import build_index, read_tasks, save_index

    config, folder = work.config.decontaminate, work.contamination
    if config is not None and folder is not None and not (folder / "index.json").exists():
        save_index(folder, build_index(read_tasks(config.tasks), config.ngram))


@lru_cache(maxsize=1)
def _loaded_index(folder: Path) -> "Index":
    """Its filters are made when it is loaded: once a process and not once a part."""
    from data_prep.decontaminate import load_index

    return load_index(folder)


def refine_unit(work: Work, name: str, unit: Unit) -> RefineRecord:
    """Writes a unit's texts and scores in parts of about `unit_bytes`."""
    source = work.config.sources[unit.source]
    unreadable: Counter[str] = Counter()
    parts: list[RefinedPart] = []
    for batch in read_batches(unit.slices, source, work.config.unit_bytes):
        unreadable.update(batch.bad)
        if batch.ids:
            part = f"{name}-{len(parts):04d}"
            refine_part(work, part, source, batch.ids, clean_all(batch.texts))
            parts.append(RefinedPart(name=part, num_documents=len(batch.ids)))
    done = RefineRecord(
        parts=tuple(parts),
        documents_read=sum(part.num_documents for part in parts) + unreadable.total(),
        unreadable=dict(unreadable),
    )
    return work.save_record(name, done)


def refine_part(work: Work, name: str, source: SourceConfig, ids: list[str], cleaned: Texts) -> None:
    """Scores and edits the texts of a part, and writes what became of them."""
    halves = keys.content_halves_of(cleaned)
    columns: dict[str, Any] = {"empty": blank(cleaned)}
    columns |= _languages(cleaned, halves[0], ask_all=bool(source.languages))
    columns["cleaned_size"] = cleaned.sizes
    scored = score(steps_of(source.rules), cleaned)
    texts = scored.texts
    columns |= scored.columns
    columns["edited_size"] = texts.sizes
    if source.pii.action != "off":
        from data_prep.redaction import redact_all

        texts, counts = redact_all(texts, source.pii.kinds, source.pii.phone_regions)
        columns |= {f"pii:{kind}": found for kind, found in counts.items()}
    columns["high"], columns["low"] = halves if texts is cleaned else keys.content_halves_of(texts)
    columns["size"] = texts.sizes
    columns |= _compared(work, name, texts)
    documents = pa.table({"id": pa.array(ids, pa.string()), "text": texts_to_arrow(texts)})
    work.save_table(name, "docs.arrow", documents)
    work.save_table(name, "scores.arrow", pa.table({key: pa.array(one) for key, one in columns.items()}))


def _compared(work: Work, name: str, texts: Texts) -> Columns:
    """What other texts are compared with: MinHash keys go to `bands.npy`, overlaps with evaluation tasks are scores."""
    bands, contamination = _bands(work.config), work.contamination
    if bands is None and contamination is None:
        return {}
    from data_prep.shingles import word_hashes

    words = word_hashes(texts)
    if bands is not None:
        from data_prep.minhash import band_keys

        found, has_keys = band_keys(words, *bands)
        work.save_array(name, "bands.npy", np.ascontiguousarray(found.T))
        work.save_array(name, "has_bands.npy", has_keys)
    if contamination is None:
        return {}
    from data_prep.decontaminate import overlaps

    index = _loaded_index(contamination)
    counts = overlaps(words, index).T
    return {f"task:{task.name}": found for task, found in zip(index.record.tasks, counts, strict=True)}


def _languages(texts: Texts, contents: npt.NDArray[np.uint64], *, ask_all: bool) -> Columns:
    """Language and confidence of all texts, or of a sample chosen by content; what was not asked is empty."""
    from data_prep.language import languages_of

    is_asked = np.ones(len(texts), dtype=bool) if ask_all else contents % LANGUAGE_SAMPLE == 0
    asked = np.flatnonzero(is_asked)
    found, confidence = np.full(len(texts), "", dtype=object), np.zeros(len(texts), dtype=np.float32)
    if len(asked):
        found[asked], confidence[asked] = languages_of(texts if ask_all else take(texts, asked))
    return {"language": found, "confidence": confidence}


def _bands(config: CorpusConfig) -> tuple[int, int] | None:
    from data_prep.minhash import bands_for

    minhash = config.dedup.minhash
    return None if minhash is None else bands_for(minhash.threshold, minhash.permutations)
