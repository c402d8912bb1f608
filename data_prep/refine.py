"""What becomes of a document's text: cleaned, judged by language and rules, freed of personal data.

    text -> clean -> language -> rules and edits -> personal data -> text, or the reason to drop it

A pure function of the text and the source's settings; the cheap steps that drop most stand first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from data_prep.clean import clean
from data_prep.config import SourceConfig
from data_prep.filters import judge, steps_of


@dataclass(frozen=True, slots=True)
class Refined:
    text: str
    reason: str | None = None
    """Why the document is dropped; None keeps it."""
    edited_by: tuple[str, ...] = ()
    """The edits that took lines out."""
    pii: dict[str, int] = field(default_factory=dict)
    """Kind -> how many were found."""


def refiner(source: SourceConfig) -> Callable[[str], Refined]:
    """The function that refines a source's documents."""
    steps = steps_of(source.rules)

    def refine(text: str) -> Refined:
        text = clean(text)
        if not text or text.isspace():
            return Refined(text, "empty")
        if source.languages and not _speaks(text, source):
            return Refined(text, "language")
        judged = judge(steps, text)
        if judged.reason:
            return Refined(text, judged.reason, judged.edited_by)
        if not judged.text or judged.text.isspace():
            return Refined(text, "empty", judged.edited_by)
        return _without_pii(judged.text, judged.edited_by, source)

    return refine


def _speaks(text: str, source: SourceConfig) -> bool:
    from data_prep.language import language_of

    language, confidence = language_of(text)
    return language in source.languages and confidence >= source.language_confidence


def _without_pii(text: str, edited_by: tuple[str, ...], source: SourceConfig) -> Refined:
    if source.pii.action == "off":
        return Refined(text, None, edited_by)
    from data_prep.pii import redact

    redacted = redact(text, source.pii.kinds, source.pii.phone_regions)
    reason = "pii" if redacted.counts and source.pii.action == "drop" else None
    return Refined(redacted.text, reason, edited_by, redacted.counts)
