"""Statistics: what a corpus's report shows and its manifest does not say, in parts that add up.

    part -> Statistics --\
    part -> Statistics ---> merged, in any order and grouping -> statistics.json beside the manifest

Counts are summed; of samples the few with the smallest keys stay, a key being a hash of the document's id. So neither
the number of workers nor the order in which they finish can be seen in the sum.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from data_prep.files import read_record
from data_prep.texts import Int64s

STATISTICS_NAME = "statistics.json"
KEPT = "kept"
HELDOUT = "heldout"
SAMPLES = 5
"""How many documents, or clusters of duplicates, are shown of a kind."""
EXCERPT_CHARACTERS = 300
ID_CHARACTERS = 200

Mergeable = TypeVar("Mergeable")
Shown = TypeVar("Shown", "Sample", "Cluster")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A document to look at."""

    key: int
    """Hash of the id: the smallest are shown."""
    id: str
    text: str
    """Its beginning, personal data replaced."""
    score: float | None = None
    """What decided its end, if that was a number. JSON has no NaN and no infinity."""
    threshold: float | None = None
    """What the score was compared with."""
    note: str = ""
    """What decided its end, if that was no number: its language, or the document that it repeats."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The documents of a source that came to the same end."""

    text_bytes: int = 0
    """UTF-8 bytes of them, as they were when it was decided."""
    lengths: dict[int, int] = field(default_factory=dict)
    """b -> documents of at least 2**(b - 1) and less than 2**b bytes."""
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SourceStatistics:
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """`kept`, `heldout`, or the reason why they were dropped, as in the manifest -> those documents."""
    trimmed_bytes: dict[str, int] = field(default_factory=dict)
    """What took text out of documents (`c4_lines`, `pii`, `repeated_lines`) -> bytes; below 0 if they grew."""
    languages: dict[str, int] = field(default_factory=dict)
    """Language -> documents, of those that were asked for theirs."""

    @property
    def text_bytes(self) -> int:
        """Of all readable documents after cleaning: every byte was kept, dropped with its document or taken out."""
        return sum(one.text_bytes for one in self.outcomes.values()) + sum(self.trimmed_bytes.values())


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Documents that are duplicates of each other."""

    key: int
    """Hash of the first id: the smallest are shown."""
    size: int
    ids: tuple[str, ...]
    """Some of them as `SOURCE/ID`; the first is the one that was kept."""


@dataclass(frozen=True, kw_only=True)
class Clusters:
    sizes: dict[int, int] = field(default_factory=dict)
    """Documents of a cluster -> clusters of that size."""
    examples: tuple[Cluster, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of a corpus, or of any part of it; `Statistics()` is that of nothing."""

    sources: dict[str, SourceStatistics] = field(default_factory=dict)
    exact: Clusters = field(default_factory=Clusters)
    near: Clusters = field(default_factory=Clusters)
    """Duplicates are looked for over all sources."""


def merged(one: Mergeable, other: Mergeable) -> Mergeable:
    """Both together. Associative and commutative: any tree of merges over the same parts gives the same."""
    return cast(Mergeable, _merged(one, other))


def _merged(one: Any, other: Any) -> Any:
    if isinstance(one, int):
        return one + other
    if isinstance(one, tuple):
        return smallest((*one, *other))
    if isinstance(one, dict):
        both = one.keys() & other.keys()
        return dict(sorted((one | other | {key: _merged(one[key], other[key]) for key in both}).items()))
    return replace(
        one, **{item.name: _merged(getattr(one, item.name), getattr(other, item.name)) for item in fields(one)}
    )


def smallest(shown: Iterable[Shown]) -> tuple[Shown, ...]:
    """Those to show. Equal keys are told apart by all that there is, so that order has no say."""
    ordered = sorted(shown, key=lambda one: one.key)
    if any(one.key == other.key for one, other in pairwise(ordered)):  # rare, and repr is half of a merge's time
        ordered.sort(key=lambda one: (one.key, repr(one)))
    return tuple(ordered[:SAMPLES])


def outcome_of(sizes: Int64s, keys: npt.NDArray[np.uint64], sample: Callable[[int], Sample]) -> Outcome:
    """Of n documents with the same end: their UTF-8 bytes and the hashes of their ids, both (n,).

    `sample` makes the sample of a place in them and is asked for the few that are shown, so only their text is read.
    """
    widths = np.bincount(np.frexp(sizes.astype(np.float64))[1]).tolist()  # exact up to 2**53 bytes
    return Outcome(
        text_bytes=int(sizes.sum()),
        lengths={width: count for width, count in enumerate(widths) if count},
        samples=smallest(sample(place) for place in np.argsort(keys, kind="stable")[:SAMPLES].tolist()),
    )


def sample_of(
    key: int,
    document_id: str,
    text: bytes,
    *,
    score: float | None = None,
    threshold: float | None = None,
    note: str = "",
) -> Sample:
    """The sample of a document, cut to what is shown."""
    beginning = text[: 4 * EXCERPT_CHARACTERS].decode(errors="ignore")[:EXCERPT_CHARACTERS]
    return Sample(key=key, id=document_id[:ID_CHARACTERS], text=beginning, score=score, threshold=threshold, note=note)


def read_statistics(folder: Path) -> Statistics:
    """A corpus's statistics. Raises FileNotFoundError, or ValueError naming the record if it is not whole."""
    return read_record(Statistics, folder / STATISTICS_NAME)
