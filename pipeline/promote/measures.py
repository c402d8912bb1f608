"""The measures of a report that can be compared document by document, and one such comparison."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import Mistake
from pipeline.evaluate.report import DocumentScore, EvalReport, Score, ratio
from pipeline.promote.decision import Figure
from pipeline.promote.paired import PairedTest, paired_test

Documents = Sequence[DocumentScore]


def overall_measure(report: EvalReport) -> str:
    return f"{report.suite}/bits_per_byte"


def source_measures(report: EvalReport) -> dict[str, str]:
    """Measure -> the source that it is over."""
    return {f"{report.suite}/{source}/bits_per_byte": source for source in sorted({i.source for i in report.items})}


def documents_of(report: EvalReport, measure: str) -> Documents:
    """A measure's documents, in an order that depends on nothing but them.

    Raises Mistake if the report cannot be tested on this measure, or holds no text for it.
    """
    sources = source_measures(report)
    if measure not in (overall_measure(report), *sources):
        choice = ", ".join((overall_measure(report), *sources))
        raise Mistake(f"promote.gate.main is {measure}, on which this report cannot be tested; it has {choice}")
    chosen = [item for item in report.items if measure not in sources or item.source == sources[measure]]
    if sum(item.num_bytes for item in chosen) == 0:
        raise Mistake(f"{measure} is over no text at all; hold out more of the corpus (data.heldout.fraction)")
    return sorted(chosen, key=lambda item: (item.source, item.id))


def bits_per_byte(documents: Documents) -> Score:
    return ratio([item.nll_bits for item in documents], [item.num_bytes for item in documents])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Both models on the same documents: is the candidate better than (1 + margin) times the champion?"""

    measure: str
    candidate: float
    champion: float
    gain: Score
    """Champion minus candidate, in bits per byte."""
    margin: float
    within_margin: bool
    """By the scores alone, proved or not."""
    test: PairedTest
    level: float
    num_documents: int

    @property
    def proved(self) -> bool:
        return self.test.p_value <= self.level

    def figures(self) -> dict[str, Figure]:
        return {
            "measure": self.measure,
            "candidate": self.candidate,
            "champion": self.champion,
            "gain": self.gain.value,
            "gain_standard_error": self.gain.standard_error,
            "margin": self.margin,
            "p_value": self.test.p_value,
            "level": self.level,
            "method": self.test.method,
            "documents": self.num_documents,
        }

    def detail(self) -> str:
        error = "" if self.gain.standard_error is None else f" ± {self.gain.standard_error:.4f}"
        return (
            f"{self.measure} {self.candidate:.4f} against {self.champion:.4f}, "
            f"gain {self.gain.value:+.4f}{error} (p = {self.test.p_value:.2g}, needs {self.level:.2g} or less)"
        )


def compare(measure: str, ours: Documents, theirs: Documents, margin: float, level: float, seed: str) -> Comparison:
    """Compares two models on the same documents in the same order; all bits must be finite."""
    num_bytes = [item.num_bytes for item in ours]
    candidate, champion = bits_per_byte(ours).value, bits_per_byte(theirs).value
    assert candidate is not None, "only finite reports are compared"
    assert champion is not None, "only finite reports are compared"
    gains_over_margin = _gains(ours, theirs, margin)
    return Comparison(
        measure=measure,
        candidate=candidate,
        champion=champion,
        gain=ratio(_gains(ours, theirs, 0.0), num_bytes),
        margin=margin,
        within_margin=math.fsum(gains_over_margin) >= 0,
        test=paired_test(gains_over_margin, level, seed),
        level=level,
        num_documents=len(ours),
    )


def _gains(ours: Documents, theirs: Documents, margin: float) -> list[float]:
    """Each document's gain over (1 + margin) times the champion, in bits."""
    return [(1 + margin) * _bits(b) - _bits(a) for a, b in zip(ours, theirs, strict=True)]


def _bits(item: DocumentScore) -> float:
    assert item.nll_bits is not None, "only finite reports are compared"
    return item.nll_bits
