"""The report says what the records say, whatever the texts in it try, and a browser shows it without any network."""

import functools
import json
import re
import shutil
import socket
import subprocess
import unicodedata
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.files import read_record, write_record
from data_prep.manifest import sealed
from data_prep.report import SECTIONS, render, write_report
from data_prep.report.funnel import STEPS, added, funnel
from data_prep.report.markup import INVISIBLE, Html, element, shown
from data_prep.report.numbers import decimal, share, size
from data_prep.report.style import STYLE
from data_prep.report.terminal import summary
from data_prep.shard_table import shards_of
from data_prep.statistics import (
    HELDOUT,
    KEPT,
    SAMPLES,
    STATISTICS_NAME,
    Cluster,
    Clusters,
    Outcome,
    Sample,
    SourceStatistics,
    Statistics,
    merged,
    outcome_of,
    sample_of,
    smallest,
)
from data_prep.texts import texts_of
from tests.data_prep import report_example
from tests.data_prep.report_example import WEIGHTS

HOSTILE = "</blockquote><script>document.title='x'</script><img src=\"{url}\" onerror='x'/>&amp; a\u202eb\u2066\x00\x1b[31m ]]>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

counts = st.integers(0, 10**12)
samples = st.builds(Sample, key=st.integers(0, 3), id=st.text(max_size=3), text=st.text(max_size=3))
outcomes = st.builds(
    Outcome,
    text_bytes=counts,
    lengths=st.dictionaries(st.integers(0, 40), counts, max_size=3),
    samples=st.lists(samples, max_size=8).map(smallest),
)
clusters = st.builds(
    Clusters,
    sizes=st.dictionaries(st.integers(2, 9), counts, max_size=3),
    examples=st.lists(
        st.builds(Cluster, key=st.integers(0, 3), size=st.integers(2, 9), ids=st.just(("web/1", "web/2"))), max_size=8
    ).map(smallest),
)
source_statistics = st.builds(
    SourceStatistics,
    outcomes=st.dictionaries(st.sampled_from([KEPT, HELDOUT, "too_few_words"]), outcomes, max_size=3),
    trimmed_bytes=st.dictionaries(st.sampled_from(["c4_lines", "pii"]), st.integers(-100, 10**12), max_size=2),
    languages=st.dictionaries(st.sampled_from(["en", "de", ""]), counts, max_size=3),
)
all_statistics = st.builds(
    Statistics,
    sources=st.dictionaries(st.sampled_from(["web", "code"]), source_statistics, max_size=2),
    exact=clusters,
    near=clusters,
)


@functools.cache
def page() -> str:
    return render(report_example.manifest(), report_example.statistics(), WEIGHTS)


def parsed(html: str) -> ET.Element:
    """The page as a tree; raises on anything that is not well-formed."""
    return ET.fromstring(html)


def text_of(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def row(table: str, name: str) -> list[str]:
    """The cells behind a name in the table with that caption."""
    [found] = [one for one in parsed(page()).iter("table") if one.findtext("caption") == table]
    [cells] = [list(one) for one in found.iter("tr") if text_of(one[0]) == name]
    return [text_of(cell) for cell in cells[1:]]


# Statistics add up.


@settings(max_examples=20, deadline=None)
@given(all_statistics, all_statistics, all_statistics)
def test_merging_has_no_order(one: Statistics, two: Statistics, three: Statistics) -> None:
    assert merged(one, two) == merged(two, one)
    assert merged(merged(one, two), three) == merged(one, merged(two, three))
    assert merged(one, Statistics()) == one


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=30), st.integers(0, 2**64 - 1)), unique_by=lambda one: one[1], max_size=30),
    st.integers(0, 30),
)
def test_a_part_counts_what_its_pieces_count(documents: list[tuple[str, int]], cut: int) -> None:
    def outcome(part: list[tuple[str, int]]) -> Outcome:
        texts = texts_of([text.encode() for text, _ in part])
        keys = np.array([key for _, key in part], dtype=np.uint64)
        return outcome_of(texts.sizes, keys, lambda place: sample_of(part[place][1], part[place][0], texts[place]))

    whole = outcome(documents)
    assert merged(outcome(documents[:cut]), outcome(documents[cut:])) == whole
    assert whole.text_bytes == sum(len(text.encode()) for text, _ in documents)
    assert sum(whole.lengths.values()) == len(documents)
    assert [one.key for one in whole.samples] == sorted(key for _, key in documents)[:SAMPLES]


def test_length_bins_begin_at_powers_of_two() -> None:
    sizes = np.array([0, 1, 2, 3, 4, 2**20 - 1, 2**20, 2**40], dtype=np.int64)
    keys = np.arange(8, dtype=np.uint64)
    found = outcome_of(sizes, keys, lambda place: sample_of(place, "", b""))
    assert found.lengths == {0: 1, 1: 1, 2: 2, 3: 1, 20: 1, 21: 1, 41: 1}


def test_only_the_text_that_is_shown_is_asked_for() -> None:
    asked: list[int] = []

    def sample(place: int) -> Sample:
        asked.append(place)
        return sample_of(place, str(place), b"")

    outcome_of(np.ones(1000, dtype=np.int64), np.arange(1000, 0, -1).astype(np.uint64), sample)
    assert sorted(asked) == list(range(995, 1000))


def test_a_sample_is_cut_between_characters() -> None:
    sample = sample_of(1, "i" * 1_000_000, "größe".encode() * 1_000_000)
    assert sample.text == "größe" * 60
    assert len(sample.id) == 200


@settings(max_examples=20, deadline=None)
@given(all_statistics)
def test_statistics_are_a_record(tmp_path_factory: Any, statistics: Statistics) -> None:
    path = tmp_path_factory.mktemp("record") / STATISTICS_NAME
    write_record(path, statistics)
    assert read_record(Statistics, path) == statistics


# The funnel loses nothing.


@pytest.mark.parametrize("source", report_example.manifest().sources, ids=lambda one: one.name)
def test_the_funnel_ends_with_what_was_kept(source: Any) -> None:
    levels = funnel(source, report_example.statistics().sources[source.name])
    assert [level.step for level in levels] == list(STEPS)
    assert levels[0].documents == source.documents_read
    assert levels[-1].documents == source.documents_kept
    assert levels[-1].text_bytes == source.text_bytes
    assert sum(level.lost_documents for level in levels) == source.documents_read - source.documents_kept


def test_a_funnel_step_takes_documents_and_text() -> None:
    [web, *_] = report_example.manifest().sources
    source = replace(
        web, documents_read=10, dropped={"not_json": 1, "some_new_rule": 2, "near_duplicate": 3}, documents_heldout=1
    )
    statistics = SourceStatistics(
        outcomes={
            "some_new_rule": Outcome(text_bytes=20),
            "near_duplicate": Outcome(text_bytes=30),
            HELDOUT: Outcome(text_bytes=1),
            KEPT: Outcome(text_bytes=49),
        },
        trimmed_bytes={"c4_lines": 5, "repeated_lines": 7, "pii": -2},
    )
    found = {
        level.step: (level.documents, level.lost_documents, level.text_bytes) for level in funnel(source, statistics)
    }
    assert found["read"] == (10, 0, 110)
    assert found["readable"] == (9, 1, 110)
    assert found["rules"] == (7, 2, 85)
    assert found["personal data"] == (7, 0, 87)
    assert found["near-duplicates"] == (4, 3, 57)
    assert found["repeated lines"] == (4, 0, 50)
    assert found["held out"] == (3, 1, 49)
    twice = {level.step: level.documents for level in added([funnel(source, statistics)] * 2)}
    assert twice["held out"] == 6


# Whatever a text holds, it is data.


@given(st.text())
@example(HOSTILE)
@example("\r\n\u2028\ufeff\ufffe\x7f\x85\U000e0041")
def test_any_text_comes_out_as_it_went_in(text: str) -> None:
    tree = parsed(element("p", text, title=text))
    visible = INVISIBLE.sub(lambda found: f"U+{ord(found[0]):04X}", text)
    assert "".join(tree.itertext()) == visible
    assert tree.get("title", "").split() == visible.split()  # XML makes spaces of newlines in attributes
    assert {child.tag for child in tree} <= {"i"}


def test_what_turns_or_hides_text_is_marked() -> None:
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for char in map(chr, range(0x110000)):
        if unicodedata.bidirectional(char) in turning or (unicodedata.category(char) == "Cc" and char not in "\t\n"):
            assert shown(char) == f'<i class="code">U+{ord(char):04X}</i>'


def test_only_elements_are_markup() -> None:
    assert element("p", "<b>", element("b", "<")) == "<p>&lt;b&gt;<b>&lt;</b></p>"
    assert isinstance(element("p") + "<script>", Html) is False


def test_joiners_stay_since_scripts_need_them() -> None:
    assert shown("می\u200cخواهم 👩\u200d👧") == "می\u200cخواهم 👩\u200d👧"


def hostile_page(url: str = "https://example.org/x.png") -> str:
    """A page in which every name, id, text and note is hostile."""
    text = HOSTILE.format(url=url)
    manifest, statistics = report_example.manifest(), report_example.statistics()
    sample = sample_of(0, text, text.encode(), score=0.1, note=text)
    long = Sample(key=1, id="i" * 1_000_000, text="w" * 1_000_000, note="n" * 1_000_000)
    ends = {text: 5, "empty": 2}
    sources = tuple(
        replace(source, dropped=ends, pii={text: 3}, contaminated={text: 4}, name=f"{text}{place}")
        for place, source in enumerate(manifest.sources)
    )
    hostile = SourceStatistics(
        outcomes={end: Outcome(text_bytes=9, lengths={3: 5}, samples=(sample, long)) for end in (*ends, KEPT)},
        languages={text: 3},
    )
    near = Clusters(sizes={2: 1}, examples=(Cluster(key=1, size=2, ids=(text, "i" * 1_000_000)),))
    return render(
        sealed(replace(manifest, name=text, sources=sources, shards=shards_of((), ()))),
        replace(statistics, sources={source.name: hostile for source in sources}, near=near),
        {source.name: 1.0 for source in sources},
    )


ELEMENTS = set(
    "html head meta title style body header nav main section p h1 h2 h3 dl dt dd div span a code strong details summary"  # noqa: SIM905
    " table caption thead tbody tfoot tr th td svg rect text figure figcaption article blockquote ul li i".split()
)
ATTRIBUTES = set(
    "aria-hidden aria-label charset class colspan content dir focusable height href http-equiv id lang name open role"  # noqa: SIM905
    " scope tabindex text-anchor width x y".split()
)


@pytest.mark.parametrize("make", [page, hostile_page])
def test_the_page_is_whole_and_asks_for_nothing(make: Any) -> None:
    html = make()
    tree = parsed(html)
    assert {one.tag for one in tree.iter()} <= ELEMENTS
    assert {name for one in tree.iter() for name in one.attrib} <= ATTRIBUTES
    assert all(one.get("href", "#").startswith("#") for one in tree.iter())
    assert not re.search(r"url\(|@import", tree.findtext("head/style") or "")
    assert any("default-src 'none'" in one.get("content", "") for one in tree.iter("meta"))
    assert INVISIBLE.search(html) is None


def test_long_words_are_cut() -> None:
    assert len(hostile_page()) < 200_000


# It says what the records say.


def test_the_page_begins_with_the_answer() -> None:
    tree = parsed(page())
    assert text_of(tree.find(".//h1")) == "three-sources"  # type: ignore[arg-type]
    assert "919,353 of 2,084,671 documents kept, 1,062,146,172 tokens" in page()
    assert report_example.manifest().digest in page()


def test_figures_are_those_of_the_records() -> None:
    assert row("Steps of web", "rules") == ["771,433", "52.1%", "−305,181", "2.57 GB"]
    assert row("Steps of all sources", "near-duplicates") == ["925,176", "44.4%", "−232,648", "4.07 GB"]
    assert row("Reasons in code", "longest line") == ["18,227", "4.7%", "53.8 MB"]
    assert row("Languages of web", "others") == ["141", "1.2%"]
    assert row("Exact duplicates", "3 to 4") == ["17,237", "40,507"]
    assert row("Personal data by kind", "email") == ["20,441", "88", "88", "20,617"]
    assert row("Documents with evaluation data, by task", "hellaswag") == ["61", "0", "0", "61"]
    assert row("Tokens by source", "code") == ["473,603,114", "3.07", "1,923", "231,932", "0.3%", "11.1%"]


def test_reasons_are_sorted_and_those_without_documents_left_out() -> None:
    [table] = [one for one in parsed(page()).iter("table") if one.findtext("caption") == "Reasons in web"]
    found = [int(text_of(one[1]).replace(",", "")) for one in table.findall("tbody/tr")]
    assert found == sorted(report_example.manifest().sources[0].dropped.values(), reverse=True)[:-1]


def test_a_sample_says_what_decided() -> None:
    [sample, *_] = [
        one
        for details in parsed(page()).iter("details")
        if text_of(details[0]) == "too few words"
        for one in details.iter("article")
    ]
    assert text_of(sample[0]).endswith("score 31 · threshold 50")
    assert decimal(0.15001) != decimal(0.15)


def test_epochs_follow_from_weights_and_padded_tokens() -> None:
    manifest = report_example.manifest()
    small, large = (
        replace(manifest.sources[0], name=name, num_sequences=sequences) for name, sequences in (("a", 100), ("b", 300))
    )
    html = render(
        sealed(replace(manifest, sequence_length=1000, sources=(small, large))), Statistics(), {"a": 1.0, "b": 1.0}
    )
    tables = {one.findtext("caption"): one for one in parsed(html).iter("table")}
    shares = [[text_of(cell) for cell in one] for one in tables["Shares by source"].iter("tr")]
    assert [one[-1] for one in shares] == ["repeats after", "200,000", "600,000"]
    epochs = [[text_of(cell) for cell in one] for one in tables["Epochs of each source"].iter("tr")]
    assert ["400,000 tokens, 1 × the corpus", "2.00", "0.67"] in epochs
    assert next(text_of(one) for one in tables["Epochs of each source"].iter("strong")) == "2.00"


def test_every_link_leads_somewhere() -> None:
    for html in (page(), render(report_example.manifest(), Statistics(), WEIGHTS)):
        tree = parsed(html)
        anchors = {one.get("id") for one in tree.iter() if one.get("id")}
        assert {one.get("href", "")[1:] for one in tree.iter("a")} == anchors
        assert anchors <= set(SECTIONS)


def test_tables_can_be_heard() -> None:
    for table in parsed(page()).iter("table"):
        assert table.findtext("caption")
        columns = table.findall("thead/tr/th")
        assert all(one.get("scope") == "col" for one in columns)
        for line in table.findall("tbody/tr"):
            assert line[0].tag == "th"
            assert line[0].get("scope") == "row"
            assert len(line) == len(columns)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_apart(scheme: int) -> None:
    """WCAG 2.2's contrast: 4.5 to 1 for text, 3 to 1 for what is drawn."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6})", blocks[scheme]))

    def luminance(name: str) -> float:
        parts = [int(colours[name][at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    assert all(contrast(text, ground) >= 4.5 for text in ("ink", "quiet") for ground in ("ground", "panel"))
    assert contrast("kept", "ground") >= 4.5  # of links, too
    assert contrast("lost", "ground") >= 3


def test_many_sources_are_folded() -> None:
    manifest = report_example.manifest()
    sources = tuple(replace(manifest.sources[0], name=f"web-{n}") for n in range(9))
    html = render(sealed(replace(manifest, sources=sources)), Statistics(), {one.name: 1.0 for one in sources})
    unfolded = [text_of(one[0]) for one in parsed(html).iter("details") if "open" in one.attrib]
    assert [one.split("  ")[0][:11] for one in unfolded] == ["All sources"]


def test_equal_records_give_equal_pages() -> None:
    statistics = report_example.statistics()
    other = replace(statistics, sources=dict(reversed(statistics.sources.items())))
    assert render(report_example.manifest(), other, WEIGHTS) == page()


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(1, 3, "33.3%"), (1, 10**6, "<0.1%"), (999_999, 10**6, ">99.9%"), (0, 5, "0.0%"), (0, 0, "–")],
)
def test_shares(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (999_600, "1 MB"), (1_234_000, "1.23 MB"), (10**18, "1e+03 PB")]
)
def test_sizes(value: int, text: str) -> None:
    assert size(value) == text


# Files and terminal.


def test_the_report_is_written_from_the_records(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path, report_example.manifest(), WEIGHTS)
    write_record(tmp_path / STATISTICS_NAME, report_example.statistics())
    path = write_report(tmp_path, report_example.manifest(), WEIGHTS)
    assert path.read_text() == page()
    write_report(tmp_path, report_example.manifest(), {"web": 1, "wiki": 1, "code": 1})
    assert path.read_text() != page()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["report.html", "statistics.json"]


def test_the_summary_adds_what_the_manifest_does_not_say() -> None:
    lines = summary(report_example.manifest(), report_example.statistics()).splitlines()
    assert lines[0].split("  ")[0] == "source"
    assert lines[1].split() == ["web", "1.98", "GB", "48.2%", "4.41", "931", "0.3%", "11.1%"]
    assert lines[4] == "exact duplicates: 109,485 dropped of 60,202 clusters, the largest of 3,000"
    assert lines[6].startswith("languages of web: en 68.9%, fr 9.4%")
    assert lines[-2:] == [
        "personal data: email 20,617, phone 9,120, ip 310, api key 82",
        "evaluation data: hellaswag 61, arc-challenge 26",
    ]
    assert len(summary(report_example.manifest(), Statistics()).splitlines()) == 6


# A browser.

PROBE = """<!DOCTYPE html><iframe src="report.html" style="border:0;width:390px;height:800px"></iframe><p id="found"></p>
<script>addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(one => { one.open = true; });
  const wide = [...page.querySelectorAll("body *")].filter(
    one => !one.closest(".scroll") && !one.closest("svg") && one.getBoundingClientRect().right > 390);
  const clipped = [...page.querySelectorAll("blockquote")].filter(one => one.scrollWidth > one.clientWidth);
  const bar = page.querySelector("#steps tbody tr:nth-child(5) rect.kept").getBoundingClientRect();
  const whole = page.querySelector("#steps tbody tr:nth-child(1) rect.kept").getBoundingClientRect();
  document.getElementById("found").textContent = JSON.stringify({
    headline: page.querySelector(".headline").textContent, width: root.scrollWidth, wide: wide.length, clipped: clipped.length,
    bar: bar.width / whole.width, right: getComputedStyle(page.querySelector("td")).textAlign,
    title: page.title, scripts: page.scripts.length, images: page.images.length, tables: page.querySelectorAll("table").length,
  });
});</script>"""


def browsed(folder: Path, html: str) -> dict[str, Any]:
    """What Chromium makes of a page on a phone, with every network request failing."""
    (folder / "report.html").write_text(html)
    (folder / "probe.html").write_text(PROBE)
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", "--allow-file-access-from-files", "--no-first-run"]
    command += ["--disable-background-networking", "--proxy-server=http://127.0.0.1:9", "--proxy-bypass-list=127.0.0.1"]
    command += ["--dump-dom", (folder / "probe.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<p id="found">(.*?)</p>', dom, re.DOTALL)
    assert found, dom
    answer: dict[str, Any] = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return answer


@needs_chromium
def test_a_browser_shows_it_on_a_phone(tmp_path: Path) -> None:
    found = browsed(tmp_path, page())
    assert found["headline"] == "919,353 of 2,084,671 documents kept, 1,062,146,172 tokens"
    assert found["width"] == 390
    assert found["wide"] == 0
    assert found["right"] == "right"
    assert found["bar"] == pytest.approx(1_314_500 / 2_084_671, abs=0.01)
    assert found["tables"] == page().count("<table>")


@needs_chromium
def test_a_browser_runs_and_fetches_nothing_of_a_hostile_text(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        found = browsed(tmp_path, hostile_page(f"http://127.0.0.1:{server.getsockname()[1]}/x.png"))
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (found["scripts"], found["images"], found["width"]) == (0, 0, 390)
    assert (found["wide"], found["clipped"]) == (0, 0)
    assert found["title"] != "x"
