"""What the end of `headrace prep` can say on a terminal beyond the counts of documents and tokens."""

from collections import Counter

from data_prep.manifest import Manifest
from data_prep.report.numbers import aligned, number, ratio, share, size, words
from data_prep.statistics import Clusters, SourceStatistics, Statistics

LANGUAGES = 5
HEAD = ("source", "text", "kept of it", "bytes a token", "tokens a document", "padding", "cut")


def summary(manifest: Manifest, statistics: Statistics) -> str:
    """A row a source, then a line a finding; the findings that there are not are left out."""
    rows = [HEAD]
    lines = [_clusters("exact", statistics.exact), _clusters("near", statistics.near)]
    found, contaminated = Counter[str](), Counter[str]()
    for source in manifest.sources:
        known = statistics.sources.get(source.name, SourceStatistics())
        rows.append(
            (
                source.name,
                size(source.text_bytes),
                share(source.text_bytes, known.text_bytes),
                ratio(source.text_bytes, source.num_tokens - source.documents_kept, ".2f"),
                ratio(source.num_tokens, source.documents_kept, ",.0f"),
                share(source.padding_tokens, source.num_tokens + source.padding_tokens),
                share(source.cut_documents, source.documents_kept),
            )
        )
        lines.append(_languages(source.name, known.languages))
        found.update(source.pii)
        contaminated.update(source.contaminated)
    lines += [_counts("personal data", found), _counts("evaluation data", contaminated)]
    return "\n".join([aligned(rows), *(line for line in lines if line)])


def _clusters(kind: str, clusters: Clusters) -> str:
    if not clusters.sizes:
        return ""
    count, dropped = sum(clusters.sizes.values()), sum((size - 1) * n for size, n in clusters.sizes.items())
    return (
        f"{kind} duplicates: {number(dropped)} dropped of {number(count)} clusters,"
        f" the largest of {number(max(clusters.sizes))}"
    )


def _languages(source: str, languages: dict[str, int]) -> str:
    asked = sum(languages.values())
    most = sorted(languages.items(), key=lambda one: (-one[1], one[0]))[:LANGUAGES]
    named = ", ".join(f"{language or 'not told'} {share(count, asked)}" for language, count in most)
    return f"languages of {source}: {named} (of {number(asked)} asked)" if asked else ""


def _counts(what: str, counts: Counter[str]) -> str:
    named = ", ".join(f"{words(name)} {number(count)}" for name, count in counts.most_common() if count)
    return f"{what}: {named}" if named else ""
