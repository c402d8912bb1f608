"""A corpus that might be: the manifest and statistics of three sources, made up and consistent."""

import random
from dataclasses import replace

from data_prep.manifest import FORMAT_VERSION, Manifest, ShardRecord, SourceRecord, sealed
from data_prep.shard_table import shards_of
from data_prep.statistics import (
    HELDOUT,
    KEPT,
    SAMPLES,
    Cluster,
    Clusters,
    Outcome,
    Sample,
    SourceStatistics,
    Statistics,
)

SEQUENCE_LENGTH = 2048
WEIGHTS = {"web": 0.6, "wiki": 0.25, "code": 0.15}
WORDS = (
    "the",
    "mill",
    "stands",
    "where",
    "the",
    "river",
    "leaves",
    "the",
    "hills",
    "and",
    "its",
    "wheel",
    "turns",
    "slowly",
)
CODE = "def flow(level_m: float, width_m: float) -> float:\n    return 1.84 * width_m * level_m ** 1.5\n"

READ = {"web": 1_482_093, "wiki": 214_377, "code": 388_201}
DROPPED = {
    "web": {
        "not_utf8": 412, "empty": 3_190, "language": 401_877, "too_few_words": 121_044, "mean_word_length": 8_210,
        "symbols_per_word": 2_977, "stop_words": 31_655, "duplicate_lines": 14_090, "top_2gram": 9_408,
        "duplicate_5gram": 40_313, "curly_bracket": 18_804, "lorem_ipsum": 211, "too_few_sentences": 52_119,
        "short_lines": 6_350, "pii": 0, "contaminated": 87, "exact_duplicate": 96_240, "near_duplicate": 188_116,
        "repeated_lines": 1_205,
    },
    "wiki": {"empty": 12, "too_few_words": 20_118, "duplicate_paragraphs": 96, "exact_duplicate": 31, "near_duplicate": 3_477},
    "code": {"too_short": 7_002, "longest_line": 18_227, "not_alphanumeric": 2_116, "generated": 11_940, "exact_duplicate": 60_318, "near_duplicate": 41_055},
}  # fmt: skip
MEAN_BYTES = {"web": 4_100, "wiki": 3_300, "code": 5_900}
BYTES_A_TOKEN = {"web": 4.41, "wiki": 4.52, "code": 3.07}
SCORES = {"too_few_words": (31.0, 50.0), "duplicate_5gram": (0.2271, 0.15), "top_2gram": (0.3112, 0.2), "longest_line": (20_144, 1_000), "symbols_per_word": (0.1208, 0.1)}  # fmt: skip
NOTES = {"language": "fr, 0.91", "exact_duplicate": "same as web/000000017", "near_duplicate": "like web/000004711"}


def manifest() -> Manifest:
    sources = tuple(_source(name) for name in READ)
    shards = tuple(
        ShardRecord(
            name=f"{source.name}-{number:05d}.tar",
            source=source.name,
            number=number,
            num_sequences=source.num_sequences,
            num_documents=source.documents_kept,
            cut_documents=source.cut_documents,
            size_bytes=1,
            sha256="00" * 32,
            docs_sha256="00" * 32,
        )
        for source in sources
        for number in range(3)
    )
    return sealed(
        Manifest(
            format_version=FORMAT_VERSION,
            name="three-sources",
            sequence_length=SEQUENCE_LENGTH,
            sequences_per_shard=60_000,
            token_dtype="uint16",
            vocab_size=50_257,
            end_of_text_id=50_256,
            tokenizer_sha256="9f2c" * 16,
            tokenizer_backend="gigatoken",
            config_digest="1b77" * 16,
            sources=sources,
            shards=shards_of(shards, tuple(source.name for source in sources)),
            heldout=(),
        )
    )


def _source(name: str) -> SourceRecord:
    left = READ[name] - sum(DROPPED[name].values())
    heldout = left // 200
    kept = left - heldout
    text_bytes = kept * MEAN_BYTES[name]
    num_tokens = round(text_bytes / BYTES_A_TOKEN[name]) + kept
    num_sequences = -(-num_tokens // (SEQUENCE_LENGTH - 6))
    return SourceRecord(
        name=name,
        documents_read=READ[name],
        dropped=DROPPED[name],
        documents_heldout=heldout,
        documents_kept=kept,
        text_bytes=text_bytes,
        num_tokens=num_tokens,
        num_sequences=num_sequences,
        num_shards=3,
        cells_sha256="00" * 32,
        padding_tokens=num_sequences * SEQUENCE_LENGTH - num_tokens,
        pii={"email": 20_441, "phone": 9_120, "ip": 310} if name == "web" else {"email": 88, "api_key": 41},
        contaminated={"hellaswag": 61, "arc-challenge": 26} if name == "web" else {},
        packing="best_fit",
        cut_documents=kept // 9,
    )


def statistics() -> Statistics:
    draw = random.Random(7)
    sources = {}
    for record in manifest().sources:
        ends = record.dropped | {KEPT: record.documents_kept, HELDOUT: record.documents_heldout}
        outcomes = {end: _outcome(draw, record.name, end, count) for end, count in ends.items() if count}
        sources[record.name] = SourceStatistics(
            outcomes=outcomes | {KEPT: replace(outcomes[KEPT], text_bytes=record.text_bytes)},
            trimmed_bytes={"c4_lines": 310_000_000, "pii": 120_000} if record.name == "web" else {},
            languages={"en": 8_204, "fr": 1_120, "de": 871, "es": 640, "ru": 402, "ja": 214, "zh": 190, "pt": 122, "it": 80, "nl": 61}
            if record.name == "web"
            else {"en": 1_600, "de": 12},
        )  # fmt: skip
    return Statistics(
        sources=sources,
        exact=Clusters(sizes={2: 40_102, 3: 11_204, 4: 6_033, 5: 2_008, 9: 811, 60: 40, 3_000: 4}),
        near=Clusters(
            sizes={2: 61_440, 3: 20_012, 4: 9_120, 7: 3_300, 12: 1_800, 40: 320, 515: 8},
            examples=tuple(
                Cluster(key=n, size=n + 2, ids=tuple(f"web/{draw.randrange(10**9):09d}" for _ in range(n + 2)))
                for n in range(3)
            ),
        ),
    )


def _outcome(draw: random.Random, source: str, end: str, count: int) -> Outcome:
    middle = {"too_few_words": 8, "empty": 1, "not_utf8": 0, "longest_line": 15}.get(end, 12)
    shares = {middle + away: 2.0 ** -abs(away * 1.3) for away in range(-4, 6) if middle + away >= 0}
    total = sum(shares.values())
    lengths = {width: int(count * part / total) for width, part in shares.items()}
    lengths[middle] += count - sum(lengths.values())
    return Outcome(
        text_bytes=0
        if end in ("not_utf8", "empty")
        else count * MEAN_BYTES[source] // (20 if end == "too_few_words" else 2),
        lengths={width: documents for width, documents in lengths.items() if documents},
        samples=()
        if end in ("not_utf8", "empty")
        else tuple(_sample(draw, source, end, key) for key in range(min(SAMPLES, count))),
    )


def _sample(draw: random.Random, source: str, end: str, key: int) -> Sample:
    text = CODE * 4 if source == "code" else " ".join(draw.choices(WORDS, k=80)).capitalize() + "."
    score, threshold = SCORES.get(end, (None, None))
    return Sample(
        key=key,
        id=f"src/race/flow_{draw.randrange(10**4)}.py" if source == "code" else f"{draw.randrange(10**9):09d}",
        text=text[:300],
        score=score,
        threshold=threshold,
        note=NOTES.get(end, ""),
    )
