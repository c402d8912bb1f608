"""The EvalReport: what a checkpoint scored on which data, item by item, sealed with its own digest.

The scores are for people; the items are the evidence. The gate recomputes what it needs from the items, because a
paired test over documents needs far fewer of them than a comparison of two averages.

A number that is not finite is stored as None: JSON has no NaN, and a checkpoint that diverged must still get a report,
so that the gate can refuse it and say why.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.files import digest, read_record, write_record


@dataclass(frozen=True, kw_only=True)
class Score:
    value: float | None
    """None if it is not finite."""
    standard_error: float | None
    """None if there are fewer than two items, or if the value is not finite."""
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class DocumentScore:
    id: str
    """The held-out document's id; unique within its source."""
    source: str
    nll_bits: float | None
    """Negative log-likelihood of the whole document in bits; None if it is not finite."""
    num_bytes: int
    """UTF-8 bytes of the document's text."""
    num_tokens: int
    """Tokens that were scored."""


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    run: str
    step: int
    checkpoint_digest: str
    suite: str
    """`heldout`; the scores' names begin with it."""
    data_digest: str
    """Digest of the texts that were scored."""
    scorer_version: str
    """Changes whenever the same model on the same data would score otherwise."""
    scores: dict[str, Score]
    """`heldout/bits_per_byte`, `heldout/perplexity`, and for each source `heldout/SOURCE/bits_per_byte`, ..."""
    items: tuple[DocumentScore, ...]
    digest: str = ""
    """sha256 of this record with an empty digest."""


def sealed(report: EvalReport) -> EvalReport:
    """The report with its digest filled in."""
    bare = replace(report, digest="")
    return replace(bare, digest=digest(bare))


def write_report(path: Path, report: EvalReport) -> None:
    """Writes a sealed report atomically."""
    assert report.digest, "seal the report first"
    write_record(path, report)


def read_report(path: Path) -> EvalReport:
    """Loads a report. Raises FileNotFoundError, or ValueError if it is no report or was changed since it was sealed."""
    report = read_record(EvalReport, path)
    if sealed(report).digest != report.digest:
        raise ValueError(f"{path} does not match its own digest; evaluate the checkpoint again")
    return report


def report_of(path: Path, checkpoint_digest: str) -> EvalReport | None:
    """The report at a path, if it is of that checkpoint; None if it has to be made. A step that was saved anew has
    another checkpoint than the report that may be there."""
    try:
        report = read_report(path)
    except (FileNotFoundError, ValueError):
        return None
    return report if report.checkpoint_digest == checkpoint_digest else None


def finite_or_none(value: float) -> float | None:
    """The value as records store it."""
    return value if math.isfinite(value) else None


def heldout_scores(items: Iterable[DocumentScore], suite: str = "heldout") -> dict[str, Score]:
    """Bits per byte and perplexity over all documents and over each source, with standard errors."""
    documents = sorted(items, key=lambda item: (item.source, item.id))
    scores = _scores(suite, documents)
    for source in sorted({item.source for item in documents}):
        scores |= _scores(f"{suite}/{source}", [item for item in documents if item.source == source])
    return scores


def _scores(prefix: str, documents: Sequence[DocumentScore]) -> dict[str, Score]:
    bits = [item.nll_bits for item in documents]
    per_byte = ratio(bits, [item.num_bytes for item in documents])
    per_token = ratio(bits, [item.num_tokens for item in documents])
    return {f"{prefix}/bits_per_byte": per_byte, f"{prefix}/perplexity": _power_of_two(per_token)}


def ratio(numerators: Sequence[float | None], denominators: Sequence[int]) -> Score:
    """Sum over sum, with the standard error of a ratio estimator over independent documents; lower is better.

    se = sqrt(n / (n - 1) * sum((a_i - r * b_i)^2)) / sum(b_i): Cochran, Sampling Techniques (1977), section 6.4,
    for a sample that is a small part of all documents. The average of per-document ratios would be another measure:
    it weighs a tweet like a book.
    """
    known = [value for value in numerators if value is not None]
    total = sum(denominators)
    if len(known) < len(numerators) or total == 0:
        return Score(value=None, standard_error=None, higher_is_better=False)
    # fsum rounds once, so the order of the documents and the machine make no difference.
    value = math.fsum(known) / total
    n = len(known)
    if n < 2:
        return Score(value=value, standard_error=None, higher_is_better=False)
    residuals = [a - value * b for a, b in zip(known, denominators, strict=True)]
    squares = math.fsum(residual * residual for residual in residuals)
    return Score(value=value, standard_error=math.sqrt(n / (n - 1) * squares) / total, higher_is_better=False)


def _power_of_two(bits: Score) -> Score:
    """Perplexity from bits a token; its standard error by the delta method: d(2^r) = ln 2 * 2^r * dr."""
    if bits.value is None or bits.value > 1000:  # 2^1024 overflows
        return Score(value=None, standard_error=None, higher_is_better=False)
    value = 2.0**bits.value
    error = None if bits.standard_error is None else math.log(2) * value * bits.standard_error
    return Score(value=value, standard_error=error, higher_is_better=False)
