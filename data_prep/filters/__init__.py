"""Quality rules: each a plain function from a text to the reason for dropping it, or None, with published thresholds.

A source names one of `RULE_SETS`, or lists rules with its own thresholds; the first reason found counts. An edit takes
lines out of a text instead of dropping it; what comes behind it sees what is left.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from data_prep.errors import DataMistake
from data_prep.filters.c4 import c4_lines, c4_page, c4_sentences
from data_prep.filters.code import code_shape, generated_code
from data_prep.filters.fineweb import fineweb_quality
from data_prep.filters.gopher import gopher_quality, gopher_repeated_lines
from data_prep.filters.ngrams import gopher_duplicate_ngrams, gopher_top_ngrams

Threshold = int | float
RuleSpec = str | Mapping[str, str | Threshold]
"""The name of a rule or of a set, or `{"rule": name, threshold: value, ...}`."""

RULES: dict[str, Callable[..., str | None]] = {
    "gopher_quality": gopher_quality,
    "gopher_repeated_lines": gopher_repeated_lines,
    "gopher_top_ngrams": gopher_top_ngrams,
    "gopher_duplicate_ngrams": gopher_duplicate_ngrams,
    "c4_page": c4_page,
    "c4_sentences": c4_sentences,
    "fineweb_quality": fineweb_quality,
    "code_shape": code_shape,
    "generated_code": generated_code,
}
EDITS: dict[str, Callable[..., str]] = {
    "c4_lines": c4_lines,
}

GOPHER = ("gopher_quality", "gopher_repeated_lines", "gopher_top_ngrams", "gopher_duplicate_ngrams")
C4 = ("c4_page", "c4_lines", "c4_sentences")
RULE_SETS: dict[str, tuple[str, ...]] = {
    "none": (),
    "prose": ("gopher_quality", "gopher_repeated_lines"),
    "code": ("code_shape", "generated_code"),
    "gopher": GOPHER,
    "c4": C4,
    "fineweb": (*GOPHER, *C4, "fineweb_quality"),
}
"""`prose` is what of Gopher's rules suits any prose; the other sets are for web pages, but `code`."""


@dataclass(frozen=True, slots=True)
class Step:
    """A rule or edit with a source's thresholds."""

    name: str
    rule: Callable[[str], str | None] | None = None
    edit: Callable[[str], str] | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    text: str
    """As the edits left it."""
    reason: str | None
    """Why the text is dropped; None keeps it."""
    edited_by: tuple[str, ...] = ()
    """The edits that changed the text."""


def judge(steps: Sequence[Step], text: str) -> Judgement:
    """Takes the text through the steps up to the first reason to drop it."""
    edited_by: tuple[str, ...] = ()
    for step in steps:
        if step.edit is not None:
            edited = step.edit(text)
            if edited != text:
                text, edited_by = edited, (*edited_by, step.name)
        elif step.rule is not None and (reason := step.rule(text)):
            return Judgement(text, reason, edited_by)
    return Judgement(text, None, edited_by)


def steps_of(rules: str | Iterable[RuleSpec], where: str = "rules") -> tuple[Step, ...]:
    """The steps that a source asks for. Raises DataMistake, naming the nearest, on an unknown rule or threshold."""
    if isinstance(rules, str):
        if rules not in RULE_SETS:
            raise DataMistake(f"{where}: {rules!r} is unknown; {_nearest(rules, RULE_SETS)}")
        return tuple(_step(name, {}) for name in RULE_SETS[rules])
    steps: list[Step] = []
    for place, spec in enumerate(rules):
        steps += _steps_of_entry(spec, f"{where}.{place}")
    return tuple(steps)


def _steps_of_entry(spec: RuleSpec, where: str) -> Iterable[Step]:
    if isinstance(spec, str):
        spec = {"rule": spec}
    name, thresholds = spec.get("rule"), {key: value for key, value in spec.items() if key != "rule"}
    if name is None:
        raise DataMistake(f"{where}: has no key 'rule'; write {{rule: gopher_quality, min_words: 30}}")
    if name in RULE_SETS:
        if thresholds:
            raise DataMistake(
                f"{where}: the set {name!r} takes no thresholds; list its rules: {_list(RULE_SETS[name])}"
            )
        return steps_of(name)
    if name not in RULES and name not in EDITS:
        raise DataMistake(f"{where}.rule: {name!r} is unknown; {_nearest(str(name), (*RULES, *EDITS, *RULE_SETS))}")
    known = thresholds_of(str(name))
    for key, value in thresholds.items():
        if key not in known:
            raise DataMistake(f"{where}.{key}: {name} has no such threshold; {_nearest(key, known)}")
        whole = isinstance(known[key], int)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or value < 0:
            raise DataMistake(f"{where}.{key}: {value!r} is not a {'whole number' if whole else 'number'} of 0 or more")
    return [_step(str(name), thresholds)]


def thresholds_of(name: str) -> dict[str, Threshold]:
    """A rule's thresholds with their published values."""
    parameters = inspect.signature((RULES | EDITS)[name]).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def _step(name: str, thresholds: Mapping[str, Any]) -> Step:
    if name in EDITS:
        return Step(name, edit=partial(EDITS[name], **thresholds))
    return Step(name, rule=partial(RULES[name], **thresholds))


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {_list(known) or 'none'}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
