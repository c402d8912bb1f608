import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import Mistake
from pipeline.evaluate.report import EvalReport, sealed
from pipeline.promote.config import GateConfig
from pipeline.promote.decision import Decision
from pipeline.promote.gate import decide, documents_needed, level, too_few

from .reports import documents, report_of, scored

CONFIG = GateConfig()
BASE = documents()


def failed(decision: Decision) -> list[str]:
    return [rule.name for rule in decision.rules if not rule.passed]


def test_first_candidate_needs_no_champion() -> None:
    decision = decide(scored(BASE), None, CONFIG, looks=0)
    assert decision.verdict == "promote"
    assert decision.champion is None
    assert "heldout/bits_per_byte" in decision.why()


@pytest.mark.parametrize(
    ("candidate", "rule"),
    [
        (scored(BASE, step=0), "trained"),
        (scored(BASE, worse_by=6.5), "better_than_uniform"),
        (report_of((replace(BASE[0], nll_bits=None), *BASE[1:])), "finite"),
        (replace(scored(BASE), scores={}), "scores"),
    ],
)
def test_first_candidate_may_still_be_refused(candidate: EvalReport, rule: str) -> None:
    decision = decide(candidate, None, CONFIG, looks=0)
    assert decision.verdict == "refuse"
    assert failed(decision) == [rule]


def test_truly_better_candidate_is_promoted() -> None:
    decision = decide(scored(BASE, worse_by=-0.05, seed=1), scored(BASE, seed=2), CONFIG, looks=0)
    assert decision.verdict == "promote", decision.why()


def test_slightly_higher_score_is_no_proof() -> None:
    """A candidate may score better than the champion and be refused: that is what the gate is for."""
    champion = scored(BASE, seed=2)
    lucky = [scored(BASE, seed=seed, step=seed) for seed in range(3, 40)]
    measure = CONFIG.main
    ahead = [c for c in lucky if (c.scores[measure].value or 9) < (champion.scores[measure].value or 0)]
    assert ahead
    assert [decide(c, champion, CONFIG, looks=0).verdict for c in ahead].count("refuse") >= len(ahead) - 1


@pytest.mark.parametrize(
    "change", [{"data_digest": "other"}, {"scorer_version": "2"}, {"suite": "other"}, {"items": tuple(BASE[1:])}]
)
def test_reports_on_other_data_are_not_compared(change: dict[str, object]) -> None:
    champion = sealed(replace(scored(BASE, worse_by=1.0), **change))  # type: ignore[arg-type]
    decision = decide(scored(BASE), champion, CONFIG, looks=0)
    assert failed(decision) == ["same_data"]
    assert all(rule.name != "better" for rule in decision.rules)


def test_documents_with_one_name_cannot_be_paired() -> None:
    twice = report_of((*BASE, BASE[0]))
    champion = report_of((*BASE, BASE[0]), checkpoint_digest="d")
    assert failed(decide(twice, champion, CONFIG, looks=0)) == ["same_data"]
    assert "are called" in decide(twice, twice, CONFIG, looks=0).why()


def test_much_better_overall_but_worse_on_one_source_is_refused() -> None:
    champion = scored(BASE, noise=0.001, seed=1)
    items = tuple(
        replace(item, nll_bits=item.nll_bits * (0.8 if item.source == "code" else 1.05))  # type: ignore[operator]
        for item in champion.items
    )
    decision = decide(report_of(items, checkpoint_digest="new"), champion, CONFIG, looks=0)
    assert failed(decision) == ["not_worse"]
    assert "heldout/prose/bits_per_byte" in decision.why()
    wide = replace(CONFIG, margin=0.1)
    assert decide(report_of(items, checkpoint_digest="new"), champion, wide, looks=0).verdict == "promote"


def test_source_of_few_documents_is_held_to_its_score() -> None:
    few = [replace(item, source="code" if index < 3 else "prose") for index, item in enumerate(BASE)]
    champion = scored(few, noise=0.0)
    better = scored(few, worse_by=-0.1, noise=0.0)
    assert decide(better, champion, CONFIG, looks=0).verdict == "promote"
    items = tuple(
        replace(item, nll_bits=item.nll_bits * 1.1) if item.source == "code" else item  # type: ignore[operator]
        for item in better.items
    )
    assert failed(decide(report_of(items), champion, CONFIG, looks=0)) == ["not_worse"]


def test_too_few_documents_say_so() -> None:
    few = documents(num=4, sources=("code",))
    decision = decide(scored(few, worse_by=-0.5), scored(few), CONFIG, looks=0)
    assert decision.verdict == "refuse"
    assert "4 documents cannot prove it at look 1, hold out more" in decision.why()


def test_too_few_documents_are_known_before_training() -> None:
    gate = GateConfig()
    assert documents_needed(gate, 0) == 6, "1/64 is below 0.05/2, 1/32 is not"
    assert documents_needed(gate, 19) == 14
    assert too_few(gate, {"web": 7, "code": 7}, looks=20) == ""
    assert too_few(gate, {"web": 7, "code": 6}, looks=20) == (
        "13 held-out documents for heldout/bits_per_byte: to prove a checkpoint better takes at least 6, and 14 once "
        "20 are judged; raise data.heldout.fraction before you train"
    )
    of_one = GateConfig(main="heldout/code/bits_per_byte")
    assert too_few(of_one, {"web": 70, "code": 1}, looks=0).startswith("1 held-out document for heldout/code/")


def test_main_may_be_one_source() -> None:
    config = replace(CONFIG, main="heldout/code/bits_per_byte")
    decision = decide(scored(BASE, worse_by=-0.1), scored(BASE, seed=5), config, looks=0)
    assert decision.verdict == "promote"
    assert {rule.figures.get("measure") for rule in decision.rules} >= {config.main, "heldout/prose/bits_per_byte"}


def test_main_that_cannot_be_tested_is_the_users_mistake() -> None:
    with pytest.raises(Mistake, match=r"heldout/perplexity.*it has heldout/bits_per_byte"):
        decide(scored(BASE), None, replace(CONFIG, main="heldout/perplexity"), looks=0)
    with pytest.raises(Mistake, match="no text at all"):
        decide(report_of(()), None, CONFIG, looks=0)


def test_levels_of_all_looks_sum_to_less_than_alpha() -> None:
    spent = math.fsum(level(CONFIG, looks) for looks in range(100_000))
    assert 0.9 * 0.05 < spent < 0.05


def test_each_look_asks_for_more() -> None:
    """The same evidence is enough at the first look and not at the hundredth."""
    champion = scored(BASE, seed=2)
    candidate = scored(BASE, worse_by=-0.02, seed=1)
    verdicts = [decide(candidate, champion, CONFIG, looks).verdict for looks in (0, 100)]
    assert verdicts == ["promote", "refuse"]


def test_huge_gain_is_promoted_at_any_look() -> None:
    decision = decide(scored(BASE, worse_by=-0.5), scored(BASE, seed=3), CONFIG, looks=10_000)
    assert decision.verdict == "promote"
    assert next(r for r in decision.rules if r.name == "better").figures["method"] == "hoeffding"


bits = st.lists(st.floats(100.0, 2000.0), min_size=5, max_size=30)


def _pair(data: st.DataObject) -> tuple[EvalReport, EvalReport]:
    base = documents(num=data.draw(st.integers(5, 30)), seed=data.draw(st.integers(0, 5)))
    shifts = st.floats(-0.3, 0.3)
    ours = tuple(replace(i, nll_bits=i.nll_bits + i.num_bytes * data.draw(shifts)) for i in base)  # type: ignore[operator]
    theirs = tuple(replace(i, nll_bits=i.nll_bits + i.num_bytes * data.draw(shifts)) for i in base)  # type: ignore[operator]
    return report_of(ours, checkpoint_digest="a"), report_of(theirs, checkpoint_digest="b")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_two_models_are_each_better_than_the_other(data: st.DataObject) -> None:
    ours, theirs = _pair(data)
    forth, back = decide(ours, theirs, CONFIG, 0), decide(theirs, ours, CONFIG, 0)
    assert "refuse" in (forth.verdict, back.verdict)
    gain = {d.candidate: r.figures["gain"] for d in (forth, back) for r in d.rules if r.name == "better"}
    assert gain[ours.digest] == pytest.approx(-gain[theirs.digest])  # type: ignore[operator]


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 50))
def test_order_of_documents_does_not_matter(data: st.DataObject, looks: int) -> None:
    ours, theirs = _pair(data)
    shuffled = list(ours.items)
    random.Random(data.draw(st.integers(0, 99))).shuffle(shuffled)
    # The digest is the report's identity and seeds the test, so it stays: only the order of the evidence changes.
    assert decide(replace(ours, items=tuple(shuffled)), theirs, CONFIG, looks) == decide(ours, theirs, CONFIG, looks)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 50))
def test_nothing_beats_itself(data: st.DataObject, looks: int) -> None:
    ours, _ = _pair(data)
    twin = sealed(replace(ours, checkpoint_digest="twin"))
    assert failed(decide(twin, ours, CONFIG, looks))[0] == "better"


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 30))
def test_a_later_look_never_promotes_what_an_earlier_refused(data: st.DataObject, looks: int) -> None:
    ours, theirs = _pair(data)
    if decide(ours, theirs, CONFIG, looks + 1).verdict == "promote":
        assert decide(ours, theirs, CONFIG, looks).verdict == "promote"


def false_promotions(runs: int, corrected: bool) -> int:
    """In how many runs of 20 checkpoints, all as good as the champion, at least one is promoted."""
    base = documents(num=16, sources=("text",))
    wrong = 0
    for run in range(runs):
        champion = scored(base, seed=f"{run} champion")
        candidates = (scored(base, seed=f"{run} {k}", step=k) for k in range(1, 21))
        verdicts = (decide(c, champion, CONFIG, k if corrected else 0).verdict for k, c in enumerate(candidates))
        wrong += any(verdict == "promote" for verdict in verdicts)
    return wrong


def test_twenty_equal_checkpoints_are_rarely_promoted() -> None:
    """At most alpha = 5 % of the runs may promote any; without the correction for looks it is one in five.

    Of 60 runs at a true rate of 5 %, more than 9 would promote less than once in 1,000 times. (1,000 runs, too long here,
    gave 4.2 %.)
    """
    assert false_promotions(60, corrected=True) <= 9
    assert false_promotions(30, corrected=False) >= 4


def test_an_improvement_is_found_among_equals() -> None:
    """Five equal checkpoints, then one that is better by as much as a document's noise: promoted nine times in ten."""
    base = documents(num=60, sources=("text",))
    found = 0
    for run in range(30):
        champion = scored(base, seed=f"{run} champion")
        candidate = scored(base, worse_by=-0.02, seed=f"{run} candidate")
        found += decide(candidate, champion, CONFIG, looks=5).verdict == "promote"
    assert found >= 27
