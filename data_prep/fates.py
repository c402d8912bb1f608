"""What became of every readable document, from the records of a build: for the report, and for whoever asks to see it.

    scores, thresholds -> reason to drop --\
    duplicates dropped --------------------> fate of each document of a part -> statistics, dropped/*.parquet
    held-out bound ------------------------/
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import keys
from data_prep.choosing import choose, load_columns
from data_prep.files import atomic_file
from data_prep.heldout import Bound, held_out
from data_prep.parts import DUPLICATE_REASONS, ContaminatedRecord, DroppedRecord, Part
from data_prep.statistics import HELDOUT, KEPT, Outcome, Sample, SourceStatistics, Statistics, outcome_of, sample_of
from data_prep.work import Work

Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Fates:
    """Of all readable documents of a refined part, in order of place."""

    names: tuple[str, ...]
    """`kept`, `heldout` and the reasons to drop."""
    code: npt.NDArray[np.int16]
    """Place in `names`."""
    columns: Columns
    """The scores."""
    sizes: npt.NDArray[np.int64]
    """UTF-8 bytes of the texts, repeated lines taken out."""

    def rows(self, name: str) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.code == self.names.index(name))


def fates_of(work: Work, source: int, refined: str, settled: Part | None, bound: Bound) -> Fates:
    """`settled` is what is left of the part; None if its scores left nothing."""
    columns = load_columns(work, refined)
    choice = choose(work.config.sources[source], work.config, columns)
    names = (KEPT, HELDOUT, *DUPLICATE_REASONS, *choice.reasons)
    code = np.where(choice.code < 0, 0, choice.code + 2 + len(DUPLICATE_REASONS)).astype(np.int16)
    sizes = columns["size"].copy()
    if settled is not None:
        dropped = work.load_array(settled.keys, "dropped.npy")
        code[dropped["row"]] = dropped["reason"] + 2
        table, left = work.load_array(settled.keys, "keys.npy"), np.flatnonzero(code == 0)
        code[left[held_out(table, bound)]] = names.index(HELDOUT)
        sizes[left] = table["size"]
    return Fates(names, code, columns, sizes)


def describe_part(work: Work, name: str, source: int, refined: str, settled: Part | None, bound: Bound) -> Statistics:
    """A part's share of `statistics.json`."""
    fates = fates_of(work, source, refined, settled, bound)
    columns, settings = fates.columns, work.config.sources[source]
    documents = work.load_table(refined, "docs.arrow")
    seed = keys.purpose_seed(keys.SHOWN, work.config.seed, settings.name)
    [shown] = keys.document_keys(documents["id"].to_pylist(), [seed])

    def sample(row: int) -> Sample:
        note = f"{columns['language'][row]} {columns['confidence'][row]:.2f}" if columns["language"][row] else ""
        return sample_of(int(shown[row]), documents["id"][row].as_py(), documents["text"][row].as_py(), note=note)

    def outcome(rows: npt.NDArray[np.int64]) -> Outcome:
        return outcome_of(fates.sizes[rows], shown[rows], lambda place: sample(int(rows[place])))

    outcomes = {fate: outcome(rows) for fate in fates.names if len(rows := fates.rows(fate))}
    languages, counts = np.unique(columns["language"].astype(str), return_counts=True)
    done = Statistics(
        sources={
            settings.name: SourceStatistics(
                outcomes=outcomes,
                trimmed_bytes=_trimmed_bytes(fates),
                languages={one: int(n) for one, n in zip(languages.tolist(), counts.tolist(), strict=True) if one},
            )
        }
    )
    return work.save_record(name, done)


def _trimmed_bytes(fates: Fates) -> dict[str, int]:
    """What edits, placeholders and the removal of repeated lines took out of the documents."""
    sizes = [*(fates.columns[name] for name in ("cleaned_size", "edited_size", "size")), fates.sizes]
    cleaned, edited, redacted, left = (int(column.sum()) for column in sizes)
    taken = {"c4_lines": cleaned - edited, "pii": edited - redacted, "repeated_lines": redacted - left}
    return {what: count for what, count in taken.items() if count}


def write_dropped(
    work: Work, name: str, number: int, source: int, refined: str, settled: Part | None, bound: Bound
) -> DroppedRecord:
    """Writes what was dropped of a part, with the reasons, to look at: `dropped/SOURCE-NUMBER.parquet`."""
    fates = fates_of(work, source, refined, settled, bound)
    rows = np.flatnonzero(fates.code >= 2)
    rows = rows[np.argsort(fates.code[rows], kind="stable")]
    documents = work.load_table(refined, "docs.arrow").take(pa.array(rows))
    table = pa.table(
        {
            "reason": pa.array([fates.names[code] for code in fates.code[rows].tolist()], pa.string()),
            "id": documents["id"],
            "text": documents["text"].cast(pa.large_string()),
        }
    )
    path = work.output / "dropped" / f"{work.config.sources[source].name}-{number:06d}.parquet"
    with atomic_file(path) as file:
        pq.write_table(table.combine_chunks(), file, compression="zstd")
    done = DroppedRecord(name=path.name, reasons=dict(Counter(table["reason"].to_pylist())))
    return work.save_record(name, done)


def find_contaminated(work: Work, name: str, source: int, refined: str) -> ContaminatedRecord:
    """Which of a part's documents hold evaluation data, of those that passed the rules."""
    columns = load_columns(work, refined)
    passed = choose(work.config.sources[source], work.config, columns).passed
    ids = work.load_table(refined, "docs.arrow")["id"]
    hits = [
        (ids[row].as_py(), key.removeprefix("task:"), int(columns[key][row]))
        for key in sorted(column for column in columns if column.startswith("task:"))
        for row in np.flatnonzero(passed & (columns[key] > 0)).tolist()
    ]
    return work.save_record(name, ContaminatedRecord(source=work.config.sources[source].name, hits=tuple(hits)))
