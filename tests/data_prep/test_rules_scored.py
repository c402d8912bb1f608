"""Scores once, thresholds often: decisions on stored columns, and texts that do not feel their neighbours."""

import inspect
import pydoc
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.clean import clean
from data_prep.filters import EDITS, RULES, SCORERS, RuleSpec, decide, score, scoring, steps_of, thresholds_of
from data_prep.filters.scored import Scored
from data_prep.texts import take, texts_of
from tests.data_prep.judging import reasons_of

PAGES = ["", "é" * 60, "Menu Home About", "This is line one.\n" * 8, *list(topics.values())[:24]]
SOURCES = [inspect.getsource(module) for module in (pydoc, inspect)]
TEXTS = texts_of([clean(text).encode() for text in (*PAGES, *SOURCES)])


def shaping_of(name: str) -> set[str]:
    functions = (EDITS[name],) if name in EDITS else SCORERS[name]
    return {
        key
        for one in functions
        for key, value in inspect.signature(one).parameters.items()
        if value.kind is value.KEYWORD_ONLY
    }


@st.composite
def rules(draw: st.DrawFn) -> tuple[list[RuleSpec], list[RuleSpec]]:
    """Rules with random thresholds, and the same with others; what shapes scores is equal in both."""
    pair: tuple[list[RuleSpec], list[RuleSpec]] = ([], [])
    for name in draw(st.lists(st.sampled_from([*RULES, *EDITS]), max_size=5)):
        specs: tuple[dict[str, Any], ...] = ({"rule": name}, {"rule": name})
        for key, value in thresholds_of(name).items():
            some = st.floats(0, 2).map(lambda times, value=value: type(value)(times * value))
            first = draw(some)
            for spec in specs:
                spec[key] = first if key in shaping_of(name) else draw(some)
        for specs_of_one, spec in zip(pair, specs, strict=True):
            specs_of_one.append(spec)
    return pair


def decided(specs: list[RuleSpec], scored: Scored) -> tuple[list[str | None], dict[str, list[int]]]:
    verdicts = decide(steps_of(specs), scored.columns, len(scored.texts))
    return reasons_of(verdicts), {name: times.tolist() for name, times in verdicts.edited.items()}


@settings(max_examples=20, deadline=None)
@given(rules())
def test_new_thresholds_need_no_new_scores(pair: tuple[list[RuleSpec], list[RuleSpec]]) -> None:
    old, new = pair
    assert scoring(steps_of(old)) == scoring(steps_of(new)) == orjson.loads(orjson.dumps(scoring(steps_of(new))))
    stored, fresh = score(steps_of(old), TEXTS), score(steps_of(new), TEXTS)
    assert decided(new, stored) == decided(new, fresh)
    assert stored.columns.keys() == fresh.columns.keys()
    assert all((stored.columns[key] == fresh.columns[key]).all() for key in fresh.columns)


@settings(max_examples=20, deadline=None)
@given(rules(), st.data())
def test_a_text_does_not_feel_its_neighbours(pair: tuple[list[RuleSpec], list[RuleSpec]], data: st.DataObject) -> None:
    steps = steps_of(pair[0])
    places = data.draw(st.lists(st.integers(0, len(TEXTS) - 1), max_size=8))
    whole, some = score(steps, TEXTS), score(steps, take(TEXTS, np.array(places, dtype=np.int64)))
    for key, column in some.columns.items():
        assert column.tolist() == whole.columns[key][places].tolist()
    assert [some.texts[i] for i in range(len(places))] == [whole.texts[place] for place in places]
    reasons = decided(pair[0], whole)[0]
    assert decided(pair[0], some)[0] == [reasons[place] for place in places]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("gopher_quality", {"rule": "gopher_quality", "min_words": 3}, True),
        ("fineweb_quality", {"rule": "fineweb_quality", "max_short_lines": 0.5}, True),
        ("fineweb_quality", {"rule": "fineweb_quality", "short_line_length": 40}, False),
        ("c4_lines", {"rule": "c4_lines", "max_word_length": 50}, False),
        ("generated_code", {"rule": "generated_code", "head_lines": 3}, False),
        ("c4_page", "c4_sentences", True),
        ("c4_page", "code_shape", False),
    ],
)
def test_what_shapes_scores(one: RuleSpec, other: RuleSpec, same: bool) -> None:
    assert (scoring(steps_of([one])) == scoring(steps_of([other]))) is same


def test_what_stands_behind_an_edit_is_counted_behind_it() -> None:
    steps = steps_of(
        ["c4_page", "c4_lines", "c4_sentences", {"rule": "c4_lines", "min_words_per_line": 4}, "c4_sentences"]
    )
    scored = score(steps, texts_of([b"One two three.\nOne two three four.\nMenu.", b"It is all kept here."]))
    edits = [
        "c4_lines(min_words_per_line=3,max_word_length=1000)",
        "c4_lines(min_words_per_line=4,max_word_length=1000)",
    ]
    assert scoring(steps) == ["0.c4", f"0.{edits[0]}", "1.c4", f"1.{edits[1]}", "2.c4"]
    assert [scored.columns[f"{stage}.c4.sentences"].tolist() for stage in range(3)] == [[3, 1], [2, 1], [1, 1]]
    assert scored.columns[f"0.{edits[0]}.edited"].tolist() == [True, False]
    assert decide(steps, scored.columns, 2).edited["c4_lines"].tolist() == [1, 0]  # then it is dropped


def test_without_rules_everything_is_kept_as_it_is() -> None:
    scored = score((), TEXTS)
    assert (scored.texts, scored.columns, scoring(())) == (TEXTS, {}, [])
    assert decide((), {}, 3).code.tolist() == [-1, -1, -1]
