"""The sections of a report, each a pure function of the corpus; one that has nothing to say is left out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from data_prep.manifest import Manifest, SourceRecord
from data_prep.report.charts import bar, histogram, named_bar, power, table
from data_prep.report.funnel import READ, Level, added, funnel
from data_prep.report.markup import Html, cut, element, joined
from data_prep.report.numbers import decimal, number, ratio, rounded, share, size, words
from data_prep.statistics import (
    EXCERPT_CHARACTERS,
    HELDOUT,
    ID_CHARACTERS,
    KEPT,
    Clusters,
    Outcome,
    Sample,
    SourceStatistics,
    Statistics,
    merged,
)

LANGUAGES = 8
"""Languages that are named; the others are one line."""
BUDGETS = (0.5, 1, 2, 4, 10)
"""Tokens to train on, in sizes of the corpus."""
SHOWN_IDS = 10
"""Of the documents of a cluster."""
OPEN_SOURCES = 4
"""With more sources than these, only the sum of all is unfolded."""


@dataclass(frozen=True, kw_only=True)
class Source:
    record: SourceRecord
    statistics: SourceStatistics
    weight_share: float
    """Of the training sequences."""
    tokens_in_sequences: int
    """Padding included: what training counts."""

    @property
    def name(self) -> str:
        return self.record.name

    @cached_property
    def funnel(self) -> tuple[Level, ...]:
        return funnel(self.record, self.statistics)

    @cached_property
    def dropped(self) -> Outcome:
        """Whatever the reason."""
        total = Outcome()
        for end, outcome in self.statistics.outcomes.items():
            total = total if end in (KEPT, HELDOUT) else merged(total, outcome)
        return total

    @property
    def kept(self) -> Outcome:
        return self.statistics.outcomes.get(KEPT, Outcome())

    @property
    def repeats_after(self) -> float:
        """Tokens of training after which this source's first sequence comes again."""
        return self.tokens_in_sequences / self.weight_share


@dataclass(frozen=True, kw_only=True)
class Corpus:
    manifest: Manifest
    statistics: Statistics
    sources: tuple[Source, ...]

    def total(self, figure: Callable[[SourceRecord], int]) -> int:
        return sum(figure(source.record) for source in self.sources)


def corpus_of(manifest: Manifest, statistics: Statistics, weights: Mapping[str, float]) -> Corpus:
    """Every source of the manifest with what the statistics and the mixture say of it."""
    total = sum(weights[record.name] for record in manifest.sources)
    return Corpus(
        manifest=manifest,
        statistics=statistics,
        sources=tuple(
            Source(
                record=record,
                statistics=statistics.sources.get(record.name, SourceStatistics()),
                weight_share=weights[record.name] / total,
                tokens_in_sequences=record.num_sequences * manifest.sequence_length,
            )
            for record in manifest.sources
        ),
    )


def headline(corpus: Corpus) -> str:
    kept, read = corpus.total(lambda one: one.documents_kept), corpus.total(lambda one: one.documents_read)
    tokens = corpus.total(lambda one: one.num_tokens)
    return f"{number(kept)} of {number(read)} documents kept, {number(tokens)} tokens"


def head(corpus: Corpus) -> Html:
    manifest = corpus.manifest
    sequences = corpus.total(lambda one: one.num_sequences)
    facts = {
        "Sources": number(len(corpus.sources)),
        "Documents read": number(corpus.total(lambda one: one.documents_read)),
        "Documents kept": number(corpus.total(lambda one: one.documents_kept)),
        "Documents held out": number(corpus.total(lambda one: one.documents_heldout)),
        "Text kept": size(corpus.total(lambda one: one.text_bytes)),
        "Tokens": number(corpus.total(lambda one: one.num_tokens)),
        "Sequences": f"{number(sequences)} of {number(manifest.sequence_length)} tokens",
        "Shards": f"{number(len(manifest.shards))}, {size(sequences * manifest.stride)}",
        "Packing": ", ".join(sorted({words(source.record.packing) for source in corpus.sources})),
        "Vocabulary": f"{number(manifest.vocab_size)} tokens as {manifest.token_dtype}",
        "Tokenizer": f"{manifest.tokenizer_backend}, sha256 {manifest.tokenizer_sha256[:12]}",
        "Seed": str(manifest.seed),
    }
    return element(
        "header",
        element("p", "headrace corpus", class_="eyebrow"),
        element("h1", manifest.name),
        element("p", headline(corpus), class_="headline"),
        element("p", "digest ", element("code", manifest.digest), class_="digest"),
        element("dl", *(element("div", element("dt", name), element("dd", fact)) for name, fact in facts.items())),
    )


def steps(corpus: Corpus) -> Html | None:
    """The funnel of all sources together, and of each."""
    cards = [
        _source(corpus, one.name, _funnel_table(one.name, one.funnel), f"{number(one.record.num_tokens)} tokens")
        for one in corpus.sources
    ]
    if len(cards) > 1:
        levels = added(source.funnel for source in corpus.sources)
        total = f"{number(corpus.total(lambda one: one.num_tokens))} tokens"
        cards.insert(0, _card("All sources", _funnel_table("all sources", levels), total, unfolded=True))
    return _section(
        "What each step left",
        "Documents behind each step, of those read. The pale part of a bar is what the step took; text is counted in"
        " UTF-8 bytes, from the readable documents on.",
        joined(*cards),
    )


def _funnel_table(name: str, levels: Sequence[Level]) -> Html:
    read, last = levels[0].documents, levels[-1]
    rows = [
        (
            named_bar(level.step, level.documents / (read or 1), level.lost_documents / (read or 1)),
            number(level.documents),
            share(level.documents, read),
            _taken(level.lost_documents),
            "" if level.step == READ else size(level.text_bytes),
        )
        for level in levels
    ]
    foot = (
        "kept",
        number(last.documents),
        share(last.documents, read),
        _taken(read - last.documents),
        size(last.text_bytes),
    )
    return table(f"Steps of {name}", ("step", "documents", "of read", "taken", "text"), rows, foot)


def _taken(documents: int) -> str:
    return f"−{number(documents)}" if documents else ""


def reasons(corpus: Corpus) -> Html | None:
    """Why documents were dropped, the most frequent reason first, with samples."""
    cards = [
        _source(corpus, source.name, joined(_reason_table(source), _reason_samples(source)))
        for source in corpus.sources
        if any(source.record.dropped.values())
    ]
    return _section(
        "Why documents were dropped",
        "Each document counts under the first reason that was found. Samples are chosen by a hash of the id; personal"
        " data in them is replaced as in the corpus.",
        joined(*cards),
    )


def _by_count(source: Source) -> list[tuple[str, int, Outcome]]:
    """(reason, documents, what is known of them)."""
    ordered = sorted(source.record.dropped.items(), key=lambda one: (-one[1], one[0]))
    return [(reason, count, source.statistics.outcomes.get(reason, Outcome())) for reason, count in ordered if count]


def _reason_table(source: Source) -> Html:
    ordered, read = _by_count(source), source.record.documents_read
    most = ordered[0][1]
    rows = [
        (
            named_bar(words(reason), 0, count / most),
            number(count),
            share(count, read),
            size(outcome.text_bytes) if outcome.text_bytes else "",
        )
        for reason, count, outcome in ordered
    ]
    total = sum(source.record.dropped.values())
    foot = ("all reasons", number(total), share(total, read), size(source.dropped.text_bytes))
    return table(f"Reasons in {source.name}", ("reason", "documents", "of read", "text"), rows, foot)


def _reason_samples(source: Source) -> Html | None:
    found = [
        element("details", element("summary", words(reason)), *map(_sample, outcome.samples))
        for reason, _, outcome in _by_count(source)
        if outcome.samples
    ]
    return element("div", element("span", "Samples:"), *found, class_="samples") if found else None


def _sample(sample: Sample) -> Html:
    why = [sample.note] if sample.note else []
    if sample.score is not None:
        why.append(f"score {decimal(sample.score)}")
    if sample.threshold is not None:
        why.append(f"threshold {decimal(sample.threshold)}")
    text = cut(sample.text, EXCERPT_CHARACTERS)
    return element(
        "article",
        element("p", element("code", cut(sample.id, ID_CHARACTERS)), *(f" · {cut(one, ID_CHARACTERS)}" for one in why)),
        # The direction is the text's own, and cannot reach beyond it.
        element("blockquote", text, dir="auto") if text else element("p", "(no text)"),
        class_="sample",
    )


def kept(corpus: Corpus) -> Html | None:
    """Documents that training will see."""
    cards = [
        _card(
            source.name,
            joined(*map(_sample, source.kept.samples)),
            f"{len(source.kept.samples)} of {number(source.record.documents_kept)} documents",
            unfolded=False,
        )
        for source in corpus.sources
        if source.kept.samples
    ]
    return _section("What was kept", "Samples of what training sees, chosen as above.", joined(*cards))


def lengths(corpus: Corpus) -> Html | None:
    cards = [
        _source(corpus, source.name, _length_figure(source))
        for source in corpus.sources
        if source.kept.lengths or source.dropped.lengths
    ]
    return _section(
        "Lengths",
        "Documents by UTF-8 bytes; each bar reaches to twice its label.",
        _legend() if cards else None,
        _grid(cards),
    )


def _length_figure(source: Source) -> Html:
    kept_lengths, lost_lengths = source.kept.lengths, source.dropped.lengths
    bins = sorted(kept_lengths.keys() | lost_lengths.keys())
    rows = [(f"from {power(one)}", number(kept_lengths.get(one, 0)), number(lost_lengths.get(one, 0))) for one in bins]
    return element(
        "figure",
        histogram(f"Lengths of documents of {source.name}; the figures are in the table", kept_lengths, lost_lengths),
        element(
            "figcaption",
            element(
                "details",
                element("summary", "Figures"),
                table(f"Lengths in {source.name}", ("bytes", "kept", "dropped"), rows),
            ),
        ),
    )


def _legend() -> Html:
    keys = [element("span", bar(1), "kept"), element("span", bar(0, 1), "dropped")]
    return element("p", *keys, class_="legend")


def languages(corpus: Corpus) -> Html | None:
    cards = [
        _source(corpus, source.name, _language_table(source))
        for source in corpus.sources
        if source.statistics.languages
    ]
    return _section(
        "Languages",
        "As identified in the documents that were asked: all of a source that keeps only some, else a sample.",
        _grid(cards),
    )


def _language_table(source: Source) -> Html:
    found = sorted(source.statistics.languages.items(), key=lambda one: (-one[1], one[0]))
    asked = sum(count for _, count in found)
    rest = sum(count for _, count in found[LANGUAGES:])
    named = [*found[:LANGUAGES], *([("others", rest)] if rest else [])]
    rows = [
        (named_bar(language or "not told", count / asked), number(count), share(count, asked))
        for language, count in named
    ]
    return table(
        f"Languages of {source.name}", ("language", "documents", "of asked"), rows, ("asked", number(asked), "")
    )


def duplicates(corpus: Corpus) -> Html | None:
    both = {"Exact duplicates": corpus.statistics.exact, "Near-duplicates": corpus.statistics.near}
    cards = [
        _card(title, joined(_cluster_table(title, one), _examples(one)), unfolded=True)
        for title, one in both.items()
        if one.sizes
    ]
    return _section(
        "Duplicates",
        "Clusters over all sources, by how many documents they have; one document of each stays.",
        _grid(cards),
    )


def _cluster_table(title: str, clusters: Clusters) -> Html:
    by_power: dict[int, list[tuple[int, int]]] = {}
    for documents, count in sorted(clusters.sizes.items()):
        by_power.setdefault((documents - 1).bit_length(), []).append((documents, count))
    most = max(sum(count for _, count in group) for group in by_power.values())
    rows: list[tuple[str, ...]] = []
    for width, group in by_power.items():
        count = sum(one for _, one in group)
        dropped = sum((documents - 1) * one for documents, one in group)
        rows.append(
            (named_bar(_range(2 ** (width - 1) + 1, 2**width), 0, count / most), number(count), number(dropped))
        )
    total = sum(clusters.sizes.values())
    foot = ("all", number(total), number(sum((documents - 1) * one for documents, one in clusters.sizes.items())))
    return table(title, ("documents each", "clusters", "dropped"), rows, foot)


def _range(least: int, most: int) -> str:
    return number(most) if least >= most else f"{number(least)} to {number(most)}"


def _examples(clusters: Clusters) -> Html | None:
    found = [
        element(
            "details",
            element("summary", f"{number(one.size)} documents"),
            element("ul", *(element("li", element("code", cut(name, ID_CHARACTERS))) for name in one.ids[:SHOWN_IDS])),
        )
        for one in clusters.examples
    ]
    return element("div", element("span", "Examples:"), *found, class_="samples") if found else None


def personal_data(corpus: Corpus) -> Html | None:
    grid = _matrix(
        corpus, "Personal data by kind", "kind", "found", {one.name: one.record.pii for one in corpus.sources}
    )
    text = (
        "How many were found in what passed the rules, and were replaced or their documents dropped; never the values."
    )
    return _section("Personal data", text, grid)


def contamination(corpus: Corpus) -> Html | None:
    grid = _matrix(
        corpus,
        "Documents with evaluation data, by task",
        "task",
        "documents",
        {one.name: one.record.contaminated for one in corpus.sources},
    )
    text = "Documents that share a long run of words with an item of an evaluation task."
    return _section("Evaluation data", text, grid)


def _matrix(
    corpus: Corpus, caption: str, first: str, last: str, counts: Mapping[str, Mapping[str, int]]
) -> Html | None:
    """Names down, sources across, the most frequent first; None if there is nothing."""
    names = {name for one in counts.values() for name, count in one.items() if count}
    totals = {name: sum(one.get(name, 0) for one in counts.values()) for name in names}
    several = len(counts) > 1
    rows = [
        (words(name), *(number(one.get(name, 0)) for one in counts.values()), *([number(total)] if several else []))
        for name, total in sorted(totals.items(), key=lambda one: (-one[1], one[0]))
    ]
    heads = (first, *(counts if several else [last]), *([f"all {last}"] if several else []))
    return table(caption, heads, rows) if rows else None


def tokens(corpus: Corpus) -> Html | None:
    """What the tokenizer makes of each source, and how its documents fill the sequences."""
    rows = [
        (
            one.name,
            number(one.num_tokens),
            ratio(one.text_bytes, one.num_tokens - one.documents_kept, ".2f"),
            ratio(one.num_tokens, one.documents_kept, ",.0f"),
            number(one.num_sequences),
            share(one.padding_tokens, one.num_tokens + one.padding_tokens),
            share(one.cut_documents, one.documents_kept),
        )
        for one in (source.record for source in corpus.sources)
    ]
    heads = ("source", "tokens", "bytes a token", "tokens a document", "sequences", "padding", "cut documents")
    return _section(
        "Tokens and packing",
        "Tokens count the end of text of each document, bytes a token do not. A cut document lies in more than one"
        " sequence.",
        table("Tokens by source", heads, rows),
    )


def mixture(corpus: Corpus) -> Html | None:
    if not all(source.tokens_in_sequences for source in corpus.sources):
        return None
    documents, num_tokens = corpus.total(lambda one: one.documents_kept), corpus.total(lambda one: one.num_tokens)
    rows = [
        (
            named_bar(source.name, source.weight_share),
            share(source.weight_share, 1),
            share(source.record.num_tokens, num_tokens),
            share(source.record.documents_kept, documents),
            rounded(source.repeats_after),
        )
        for source in corpus.sources
    ]
    heads = ("source", "of training", "of tokens", "of documents", "repeats after")
    return _section(
        "Mixture",
        "A source's weight is its share of the training sequences, whatever its size: its share of a whole run, if it"
        " changes. A source that is used up begins again. Repeating text up to about 4 times costs little (Muennighoff"
        " et al. 2023, arXiv 2305.16264).",
        table("Shares by source", heads, rows),
        _epoch_table(corpus),
    )


def _epoch_table(corpus: Corpus) -> Html:
    whole = sum(source.tokens_in_sequences for source in corpus.sources)
    rows = [
        (
            f"{rounded(budget * whole)} tokens, {decimal(budget)} × the corpus",
            *(_epochs(budget * whole / source.repeats_after) for source in corpus.sources),
        )
        for budget in BUDGETS
    ]
    heads = ("training on", *(source.name for source in corpus.sources))
    return table("Epochs of each source", heads, rows)


def _epochs(epochs: float) -> Html:
    # More than once is set in bold, and the figure says it too.
    return element("strong" if epochs > 1 else "span", f"{epochs:.2f}" if epochs < 100 else f"{epochs:,.0f}")


def _section(title: str, text: str, *content: Html | None) -> Html | None:
    """What stands in a section, or None if that is nothing."""
    return joined(element("h2", title), element("p", text, class_="about"), *content) if any(content) else None


def _grid(cards: Iterable[Html]) -> Html:
    found = joined(*cards)
    return element("div", found, class_="grid") if found else found


def _source(corpus: Corpus, name: str, content: Html, note: str = "") -> Html:
    return _card(name, content, note, unfolded=len(corpus.sources) <= OPEN_SOURCES)


def _card(title: str, content: Html, note: str = "", *, unfolded: bool) -> Html:
    """Something to fold, under its title; the note is read when it is folded too."""
    summary = element("summary", element("h3", title), element("span", note) if note else None)
    return element("details", summary, content, class_="card", open="" if unfolded else None)
