"""The report of a corpus: one HTML page that needs nothing but itself.

    manifest.json, statistics.json, the mixture's weights -> report.html

No script, no request, no date: equal records give equal bytes. Text in it is data from the wild; `markup` escapes it.
"""

from collections.abc import Mapping
from pathlib import Path

from data_prep.files import write_atomic
from data_prep.manifest import Manifest
from data_prep.report import sections
from data_prep.report.markup import Html, element
from data_prep.report.style import STYLE
from data_prep.statistics import Statistics, read_statistics

REPORT_NAME = "report.html"
SECTIONS = {
    "steps": sections.steps,
    "reasons": sections.reasons,
    "kept": sections.kept,
    "lengths": sections.lengths,
    "languages": sections.languages,
    "duplicates": sections.duplicates,
    "personal-data": sections.personal_data,
    "evaluation-data": sections.contamination,
    "tokens": sections.tokens,
    "mixture": sections.mixture,
}
"""Anchor -> what makes the section."""


def render(manifest: Manifest, statistics: Statistics, weights: Mapping[str, float]) -> str:
    """The page. `weights`: each source's share of the training sequences, relative to the others'."""
    corpus = sections.corpus_of(manifest, statistics, weights)
    found = {anchor: html for anchor, make in SECTIONS.items() if (html := make(corpus)) is not None}
    page = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            # Whatever a text may hold, the page loads nothing and runs nothing.
            element(
                "meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"
            ),
            element("title", f"{manifest.name}, a headrace corpus"),
            element("style", Html(STYLE)),
        ),
        element(
            "body",
            sections.head(corpus),
            element("nav", *map(_link, found), aria_label="Sections"),
            element("main", *(element("section", html, id=anchor) for anchor, html in found.items())),
        ),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{page}\n"


def _link(anchor: str) -> Html:
    return element("a", anchor.replace("-", " ").capitalize(), href=f"#{anchor}")


def write_report(folder: Path, manifest: Manifest, weights: Mapping[str, float]) -> Path:
    """Writes a corpus's report, whole or not at all. May be called again, with other weights.

    Raises FileNotFoundError, or ValueError naming it, if the record of the statistics is not there or not whole.
    """
    path = folder / REPORT_NAME
    write_atomic(path, render(manifest, read_statistics(folder), weights).encode())
    return path
