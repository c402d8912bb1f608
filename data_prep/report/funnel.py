"""The steps of a build as a funnel: what is left of a source behind each of them.

Documents come from the manifest, bytes from the statistics. A reason that no step names is one of the rules', so a new
rule needs no line here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_prep.manifest import SourceRecord
from data_prep.statistics import HELDOUT, KEPT, SourceStatistics

READ = "read"
RULES = "rules"
STEPS: dict[str, tuple[str, ...]] = {
    READ: (),
    "readable": ("not_json", "no_text", "not_utf8", "not_html", "http_error", "not_decodable"),
    "not empty": ("empty",),
    "language": ("language",),
    RULES: (),
    "personal data": ("pii",),
    "evaluation data": ("contaminated",),
    "exact duplicates": ("exact_duplicate",),
    "near-duplicates": ("near_duplicate",),
    "repeated lines": ("repeated_lines",),
    "held out": (HELDOUT,),
}
"""Step -> the reasons that it drops for, in the order of the build."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A source behind a step."""

    step: str
    documents: int
    lost_documents: int
    """At this step."""
    text_bytes: int


def step_of(reason: str) -> str:
    return next((step for step, reasons in STEPS.items() if reason in reasons), RULES)


def funnel(source: SourceRecord, statistics: SourceStatistics) -> tuple[Level, ...]:
    """A level a step. What cannot be read has no text, so the text begins as that of the readable documents."""
    documents, text_bytes = source.documents_read, statistics.text_bytes
    lost = source.dropped | {HELDOUT: source.documents_heldout}
    levels = []
    for step in STEPS:
        here = sum(count for reason, count in lost.items() if step_of(reason) == step)
        documents -= here
        text_bytes -= sum(
            one.text_bytes for end, one in statistics.outcomes.items() if end != KEPT and step_of(end) == step
        )
        text_bytes -= sum(count for edit, count in statistics.trimmed_bytes.items() if step_of(edit) == step)
        levels.append(Level(step=step, documents=documents, lost_documents=here, text_bytes=text_bytes))
    return tuple(levels)


def added(funnels: Iterable[Sequence[Level]]) -> tuple[Level, ...]:
    """The funnel of all sources together."""
    return tuple(
        Level(
            step=levels[0].step,
            documents=sum(level.documents for level in levels),
            lost_documents=sum(level.lost_documents for level in levels),
            text_bytes=sum(level.text_bytes for level in levels),
        )
        for levels in zip(*funnels, strict=True)
    )
