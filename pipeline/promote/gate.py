"""The gate: is the candidate proved better than the champion? A pure function of two reports.

    candidate, champion ──> trained? finite? scores follow from items? ──> same data? ──> better on the main measure?
                                                                                          no worse on any source?

"Scores higher" is not "is better". Judge twenty checkpoints that are equally good, promote each one that scores higher
than the champion, and the alias moves two or three times on luck alone, each time to a score more inflated. So the gate
asks for a paired test over documents, at a level that shrinks with every look.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

from pipeline.evaluate.report import EvalReport, Score, heldout_scores
from pipeline.promote.config import GateConfig
from pipeline.promote.decision import GATE_VERSION, Decision, RuleResult
from pipeline.promote.measures import Documents, bits_per_byte, compare, documents_of, source_measures
from pipeline.promote.paired import smallest_p_value

UNIFORM_BITS_PER_BYTE = 8.0
"""What a model that knows nothing needs: log2(256)."""


def decide(candidate: EvalReport, champion: EvalReport | None, config: GateConfig, looks: int) -> Decision:
    """Judges a candidate; `looks` is how many were judged against this champion before.

    Without a champion, a trained and finite candidate that beats a uniform byte model is promoted. With one it must be
    proved better on the main measure at `level(config, looks)`, and shown on every source to be no worse than
    the margin allows. The order of the reports' items makes no difference.

    Raises Mistake if the main measure is not one that the candidate's report can be tested on.
    """
    rules = [_trained(candidate), _finite(candidate, champion), _scores(candidate)]
    documents = documents_of(candidate, config.main)
    if champion is not None:
        rules.append(_same_data(candidate, champion))
    if all(rule.passed for rule in rules):
        if champion is None:
            rules.append(_better_than_uniform(config.main, documents))
        else:
            rules.append(_better(candidate, champion, config, looks))
            guarded = _guarded_measures(candidate, config.main)
            rules += [_not_worse(measure, candidate, champion, config) for measure in guarded]
    return Decision(
        gate_version=GATE_VERSION,
        candidate=candidate.digest,
        champion=champion.digest if champion else None,
        candidate_checkpoint=candidate.checkpoint_digest,
        champion_checkpoint=champion.checkpoint_digest if champion else None,
        config=config,
        looks=looks,
        rules=tuple(rules),
        verdict="promote" if all(rule.passed for rule in rules) else "refuse",
    )


def level(config: GateConfig, looks: int) -> float:
    """The significance level of look k = looks + 1: alpha / (k (k + 1)).

    The levels of all looks sum to alpha = 1 - confidence, however many there will be, so by the union bound the chance
    that any candidate is promoted over this champion without being better is at most alpha, whatever the dependence
    between looks (alpha spending: Lan & DeMets 1983; without a last look: Foster & Stine 2008).
    """
    k = looks + 1
    return (1 - config.confidence) / (k * (k + 1))


def documents_needed(config: GateConfig, looks: int) -> int:
    """The fewest on which any candidate could be proved better at look `looks` + 1: if it is better on each of them."""
    needed = 1
    while smallest_p_value(needed) > level(config, looks):
        needed += 1
    return needed


def too_few(config: GateConfig, held_out: Mapping[str, int], looks: int) -> str:
    """Why so many held-out documents of each source can prove little, if `looks` checkpoints are judged; else empty.
    To be said before a model is trained, for more can be held out only from another corpus."""
    sources = {f"heldout/{source}/bits_per_byte": count for source, count in held_out.items()}
    count = sources.get(config.main, sum(held_out.values()))
    first, last = documents_needed(config, 0), documents_needed(config, max(looks - 1, 0))
    if count >= last:
        return ""
    return (
        f"{count} held-out document{'s' * (count != 1)} for {config.main}: to prove a checkpoint better takes at least "
        f"{first}, and {last} once {looks:,} are judged; raise data.heldout.fraction before you train"
    )


def _trained(candidate: EvalReport) -> RuleResult:
    return RuleResult(
        name="trained",
        passed=candidate.step > 0,
        detail=f"candidate is step {candidate.step} of {candidate.run}",
        figures={"step": candidate.step},
    )


def _finite(candidate: EvalReport, champion: EvalReport | None) -> RuleResult:
    bad = {"candidate": _num_nonfinite(candidate), "champion": _num_nonfinite(champion) if champion else 0}
    found = [
        f"{count} documents of the {who}'s report have no finite likelihood" for who, count in bad.items() if count
    ]
    return RuleResult(
        name="finite", passed=not found, detail="; ".join(found) or "all figures are finite", figures={**bad}
    )


def _num_nonfinite(report: EvalReport) -> int:
    return sum(item.nll_bits is None or not math.isfinite(item.nll_bits) for item in report.items)


def _scores(candidate: EvalReport) -> RuleResult:
    """What people read must be what the gate judges: the scores follow from the items."""
    expected = heldout_scores(candidate.items, candidate.suite)
    wrong = [name for name in sorted(expected) if not _agree(expected[name], candidate.scores.get(name))]
    found = f"the report's {', '.join(wrong)} does not follow from its items; evaluate the checkpoint again"
    return RuleResult(
        name="scores", passed=not wrong, detail=found if wrong else "scores follow from the items", figures={}
    )


def _agree(expected: Score, found: Score | None) -> bool:
    if found is None or expected.value is None or found.value is None:
        return found is not None and expected.value is None and found.value is None
    return math.isclose(expected.value, found.value, rel_tol=1e-9)


def _same_data(candidate: EvalReport, champion: EvalReport) -> RuleResult:
    """Scores compare only on equal data by an equal scorer; then a paired test is possible, too."""
    differs = [
        f"{name} ({getattr(candidate, key)[:12]} and {getattr(champion, key)[:12]})"
        for name, key in (("suites", "suite"), ("data", "data_digest"), ("scorers", "scorer_version"))
        if getattr(candidate, key) != getattr(champion, key)
    ]
    texts = _texts(candidate)
    if not differs and texts != _texts(champion):
        differs = ["documents"]
    found = f"the reports' {' and '.join(differs)} differ; evaluate the champion on the candidate's data"
    if not differs and (twice := next((one for one, after in pairwise(texts) if one[:2] == after[:2]), None)):
        differs = ["documents"]
        found = f"two documents of {twice[0]} are called {twice[1]}; evaluate the candidate and the champion again"
    return RuleResult(
        name="same_data",
        passed=not differs,
        detail=found if differs else f"both scored the same {len(candidate.items)} documents",
        figures={"documents": len(candidate.items)},
    )


def _texts(report: EvalReport) -> list[tuple[str, str, int]]:
    return sorted((item.source, item.id, item.num_bytes) for item in report.items)


def _better_than_uniform(measure: str, documents: Documents) -> RuleResult:
    score = bits_per_byte(documents).value
    assert score is not None, "the report is finite and its documents have bytes"
    return RuleResult(
        name="better_than_uniform",
        passed=score < UNIFORM_BITS_PER_BYTE,
        detail=f"{measure} {score:.4f}; a model that knows nothing has {UNIFORM_BITS_PER_BYTE:.0f}",
        figures={"measure": measure, "candidate": score, "uniform": UNIFORM_BITS_PER_BYTE},
    )


def _better(candidate: EvalReport, champion: EvalReport, config: GateConfig, looks: int) -> RuleResult:
    """Superiority on the main measure, at a level corrected for the looks before this one."""
    ours, theirs = documents_of(candidate, config.main), documents_of(champion, config.main)
    found = compare(config.main, ours, theirs, 0.0, level(config, looks), _seed(candidate, champion))
    detail = ("better: " if found.proved else "not proved better: ") + found.detail()
    if smallest_p_value(len(ours)) > found.level:
        detail += f"; {len(ours)} documents cannot prove it at look {looks + 1}, hold out more"
    return RuleResult(name="better", passed=found.proved, detail=detail, figures={**found.figures(), "look": looks + 1})


def _not_worse(measure: str, candidate: EvalReport, champion: EvalReport, config: GateConfig) -> RuleResult:
    """Non-inferiority on one source: proved to be within the margin, at the plain confidence.

    Not corrected for looks, because these rules can only stop a promotion: what the correction bounds, the chance of
    promoting something that is not better on the main measure, they only make smaller. A source with too few documents
    for any proof must be within the margin by its score.
    """
    ours, theirs = documents_of(candidate, measure), documents_of(champion, measure)
    seed = f"{_seed(candidate, champion)} {measure}"
    found = compare(measure, ours, theirs, config.margin, 1 - config.confidence, seed)
    passed, detail = found.proved, found.detail()
    if smallest_p_value(len(ours)) > found.level:
        passed = found.within_margin
        detail += f"; {len(ours)} documents are too few to prove anything, so the score decides"
    verdict = "no worse" if passed else f"not proved within {config.margin:.1%}"
    return RuleResult(name="not_worse", passed=passed, detail=f"{verdict}: {detail}", figures=found.figures())


def _guarded_measures(candidate: EvalReport, main: str) -> list[str]:
    """Each source's measure; with a single source the main measure has said it all."""
    measures = list(source_measures(candidate))
    return [measure for measure in measures if measure != main] if len(measures) > 1 else []


def _seed(candidate: EvalReport, champion: EvalReport) -> str:
    """Fixed by the two reports, in either order, so that nobody can try again for better luck."""
    return " ".join(sorted((candidate.digest, champion.digest)))
