import json
import math
import random
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.evaluate.report import DocumentScore, heldout_scores, read_report, write_report

from .reports import documents, report_of


def test_report_reads_back_equal(tmp_path: Path) -> None:
    report = report_of(tuple(documents()))
    write_report(tmp_path / "report.json", report)
    assert read_report(tmp_path / "report.json") == report


def test_changed_report_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(path, report_of(tuple(documents())))
    raw = json.loads(path.read_text())
    raw["items"][0]["nll_bits"] -= 1.0
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="does not match its own digest"):
        read_report(path)


def test_diverged_checkpoint_still_gets_a_report(tmp_path: Path) -> None:
    report = report_of((replace(documents()[0], nll_bits=None), *documents()[1:]))
    write_report(tmp_path / "report.json", report)
    assert read_report(tmp_path / "report.json").scores["heldout/bits_per_byte"].value is None


def test_scores_are_sums_over_sums() -> None:
    items = (
        DocumentScore(id="a", source="code", nll_bits=10.0, num_bytes=10, num_tokens=5),
        DocumentScore(id="b", source="prose", nll_bits=90.0, num_bytes=30, num_tokens=15),
    )
    scores = heldout_scores(items)
    assert scores["heldout/bits_per_byte"].value == 100 / 40
    assert scores["heldout/perplexity"].value == 2 ** (100 / 20)
    assert scores["heldout/code/bits_per_byte"].value == 1.0
    assert scores["heldout/code/bits_per_byte"].standard_error is None
    assert scores["heldout/prose/perplexity"].value == 2**6


def test_standard_error_is_the_spread_over_samples() -> None:
    """Draw many held-out sets: their bits per byte must spread as much as each one's standard error says."""
    sets = [documents(num=80, seed=seed) for seed in range(300)]
    for name in ("heldout/bits_per_byte", "heldout/perplexity"):
        scores = [heldout_scores(items)[name] for items in sets]
        spread = statistics.stdev(score.value or math.nan for score in scores)
        typical = statistics.median(score.standard_error or math.nan for score in scores)
        assert typical == pytest.approx(spread, rel=0.15)


def test_order_of_documents_does_not_matter() -> None:
    items = documents()
    shuffled = random.Random(1).sample(items, len(items))
    assert heldout_scores(items) == heldout_scores(shuffled)
