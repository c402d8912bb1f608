"""The files between the stages of a build: everything in the work folder, and nothing of the corpus.

Every file is named by a digest of what it depends on, so work is done again only if what it depends on has changed, by
whichever build. A unit's documents lie in parts of about `unit_bytes` of text, so that later stages hold one part of a
50 GB file in memory.

    refine/KEY-PART.docs.arrow    id, text of every readable document; in order of place
                    scores.arrow  their scores, by which they are chosen   bands.npy  (bands, documents) MinHash keys
    read/KEY  -PART.keys.npy      KEYS of the chosen ones                  hashes.npy, bands.npy  sorted, for buckets
    dedup/KEY.npy                 DROP: places of duplicates               pairs, near: the same for near-duplicates
    settle/KEY.keys.npy           KEYS of those that are left              docs.arrow  if lines were taken out
               dropped.npy        DROPPED: the others
    sample/KEY.docs.arrow         text for the tokenizer
    encode/KEY.tokens             token stream, sorted by shuffle key      index and ids beside it (cells.py)
"""

from dataclasses import dataclass, field

import numpy as np

KEYS = np.dtype(
    [
        ("row", "<u4"),
        ("shuffle", "<u8"),
        ("heldout", "<u8"),
        ("sample", "<u8"),
        ("high", "<u8"),
        ("low", "<u8"),
        ("size", "<i8"),
    ]
)
"""A chosen document: its row in `docs.arrow`, its keys, content hash and UTF-8 bytes."""
DUPLICATE_REASONS = ("exact_duplicate", "near_duplicate", "repeated_lines")
DROPPED = np.dtype([("row", "<u4"), ("reason", "u1")])
"""A chosen document that is not left: its row in `docs.arrow` and place in `DUPLICATE_REASONS`."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some of a unit's documents."""

    source: int
    """Position of the source in the config."""
    docs: str
    """Where the documents are, as `stage/name`."""
    keys: str
    """Where the `KEYS` of the chosen ones are."""
    num_documents: int
    """How many are chosen."""
    text_bytes: int
    """Their text."""


@dataclass(frozen=True, kw_only=True)
class RefinedPart:
    """All readable documents of a part of a unit."""

    name: str
    num_documents: int


@dataclass(frozen=True, kw_only=True)
class RefineRecord:
    """What was read of a unit."""

    parts: tuple[RefinedPart, ...]
    documents_read: int
    unreadable: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class SelectRecord:
    """What was chosen of a unit."""

    parts: tuple[Part, ...]
    documents_read: int
    dropped: dict[str, int]
    edited: dict[str, int] = field(default_factory=dict)
    """Edit -> documents it took lines out of, of those that are chosen."""
    pii: dict[str, int] = field(default_factory=dict)
    """Kind -> how many were found in what passed the rules."""
    contaminated: dict[str, int] = field(default_factory=dict)
    """Task -> documents that hold some of its data."""
    content: str = ""
    """Digest of which documents were chosen: later stages depend on it, not on the thresholds that led to it."""


@dataclass(frozen=True, kw_only=True)
class DedupRecord:
    num_drops: int
    clusters: dict[int, int] = field(default_factory=dict)
    """Documents of a group of duplicates -> groups of that size."""


@dataclass(frozen=True, kw_only=True)
class LinesRecord:
    num_lines: int


@dataclass(frozen=True, kw_only=True)
class NearRecord:
    num_drops: int
    clusters: dict[int, int]
    """Documents of a cluster -> clusters of that size."""


@dataclass(frozen=True, kw_only=True)
class SettleRecord:
    """What is left of a part."""

    part: Part
    dropped: dict[str, int]
    extremes: tuple[tuple[int, int, int], ...]
    """Smallest, second largest and largest (held-out key, content hash): what decides the held-out bound."""
    content: str
    """Digest of which documents are left, and of their texts if lines were taken out."""


@dataclass(frozen=True, kw_only=True)
class ContaminatedRecord:
    source: str
    hits: tuple[tuple[str, str, int], ...]
    """(document's id, evaluation task, n-grams of it in the document)"""


@dataclass(frozen=True, kw_only=True)
class DroppedRecord:
    name: str
    reasons: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    text_bytes: int


@dataclass(frozen=True, kw_only=True)
class EncodeRecord:
    """What came of a part."""

    name: str
    """Where its files are, as `stage/name`."""
    agreed: bool
    """Whether both tokenizers gave the same tokens wherever they were compared."""
    num_documents: int
    text_bytes: int
    num_tokens: int
    heldout_documents: int
