"""What the rules make of one text, for tests."""

from dataclasses import dataclass

from data_prep.filters import RuleSpec, Verdicts, decide, score, steps_of
from data_prep.texts import texts_of


@dataclass(frozen=True)
class Judged:
    text: str
    reason: str | None
    edited_by: tuple[str, ...]


def judged(text: str, *rules: RuleSpec) -> Judged:
    steps = steps_of(rules)
    scored = score(steps, texts_of([text.encode()]))
    verdicts = decide(steps, scored.columns, 1)
    edited_by = tuple(name for name, times in verdicts.edited.items() if times[0])
    return Judged(scored.texts[0].decode(), reasons_of(verdicts)[0], edited_by)


def reason_of(text: str, *rules: RuleSpec) -> str | None:
    return judged(text, *rules).reason


def reasons_of(verdicts: Verdicts) -> list[str | None]:
    return [verdicts.reasons[code] if code >= 0 else None for code in verdicts.code.tolist()]
