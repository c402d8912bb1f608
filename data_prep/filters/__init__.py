"""Quality rules: each a plain function from scores to the reasons for dropping, with published thresholds.

A source names one of `RULE_SETS`, or lists rules with its own thresholds; the first reason found counts. An edit takes
lines out of a text instead of dropping it; what comes behind it sees what is left.

    steps = steps_of(rules)                     checked against the tables below
    scored = score(steps, texts)                reads the texts: once, as long as `scoring(steps)` is the same
    decide(steps, scored.columns, len(texts))   reads only numbers
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from data_prep.errors import DataMistake
from data_prep.filters import scores
from data_prep.filters.c4 import c4_lines, c4_page, c4_sentences
from data_prep.filters.code import code_shape, generated_code
from data_prep.filters.fineweb import fineweb_quality
from data_prep.filters.gopher import (
    gopher_duplicate_ngrams,
    gopher_quality,
    gopher_repeated_lines,
    gopher_top_ngrams,
)
from data_prep.filters.scored import Scored, Shaper, Step, Verdicts, decide, score, scoring

__all__ = ["Scored", "Step", "Verdicts", "decide", "score", "scoring", "steps_of", "thresholds_of"]

Threshold = int | float
RuleSpec = str | Mapping[str, str | Threshold]
"""The name of a rule or of a set, or `{"rule": name, threshold: value, ...}`."""

NO_LIMIT = 2**40
"""No text has so many lines or characters; kernels count in 64 bits."""

RULES: dict[str, Callable[..., Any]] = {
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
SCORERS: dict[str, tuple[Callable[..., Any], ...]] = {
    "gopher_quality": (scores.words, scores.characters, scores.lines),
    "gopher_repeated_lines": (scores.characters, scores.lines),
    "gopher_top_ngrams": (scores.words, scores.ngrams),
    "gopher_duplicate_ngrams": (scores.words, scores.ngrams),
    "c4_page": (scores.c4,),
    "c4_sentences": (scores.c4,),
    "fineweb_quality": (scores.words, scores.characters, scores.lines, scores.short_lines),
    "code_shape": (scores.characters,),
    "generated_code": (scores.notes,),
}
"""What each rule compares with its thresholds."""
EDITS: dict[str, Callable[..., Any]] = {
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


def steps_of(rules: str | Iterable[RuleSpec], where: str = "rules") -> tuple[Step, ...]:
    """The steps that a source asks for. Raises DataMistake, naming the nearest, on an unknown rule or threshold."""
    if isinstance(rules, str):
        if rules in RULES or rules in EDITS:
            raise DataMistake(f"{where}: {rules!r} is a rule, not a set of rules; write it as a list: [{rules}]")
        if rules not in RULE_SETS:
            raise DataMistake(f"{where}: {rules!r} is unknown; {_nearest_set(rules)}")
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
    """A rule's thresholds with their published values, and the parameters that shape its scores."""
    functions = (EDITS[name],) if name in EDITS else (RULES[name], *SCORERS[name])
    return {key: value for function in functions for key, value in _keywords(function).items()}


def _keywords(function: Callable[..., Any]) -> dict[str, Threshold]:
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def _step(name: str, given: Mapping[str, Any]) -> Step:
    if name in EDITS:
        return Step(name=name, edit=_shaper(EDITS[name], given))
    thresholds = {key: type(default)(given.get(key, default)) for key, default in _keywords(RULES[name]).items()}
    scorers = tuple(_shaper(scorer, given) for scorer in SCORERS[name])
    return Step(name=name, rule=partial(RULES[name], **thresholds), scorers=scorers)


def _shaper(function: Callable[..., Any], given: Mapping[str, Any]) -> Shaper:
    parameters = {key: min(int(given.get(key, default)), NO_LIMIT) for key, default in _keywords(function).items()}
    return Shaper(name=function.__name__, function=function, parameters=parameters)


def _nearest_set(name: str) -> str:
    """A set is meant, or a rule alone, which is written as a list."""
    near = difflib.get_close_matches(name, [*RULE_SETS, *RULES, *EDITS], n=1, cutoff=0.5)
    if near and near[0] not in RULE_SETS:
        return f"did you mean the rule [{near[0]}]? A rule is written as a list; sets are {_list(RULE_SETS)}"
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}choose one of {_list(RULE_SETS)}"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {_list(known) or 'none'}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
