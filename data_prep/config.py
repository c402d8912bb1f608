"""What a corpus is: its sources, cleaning, deduplication, tokenizer and shards."""

import difflib
import re
from dataclasses import dataclass, field
from typing import Literal

from data_prep.errors import DataMistake
from data_prep.weights import Weight, problem_of

CONFIG = {"extra": "forbid"}
RULE_SET_NAMES = ("none", "prose", "code", "gopher", "c4", "fineweb")
"""The keys of `filters.RULE_SETS`, known here without importing it."""


PII_KINDS = ("private_key", "api_key", "email", "iban", "card", "ip", "phone")
"""The keys of `pii.FINDERS`."""


@dataclass(frozen=True, kw_only=True)
class PiiConfig:
    __pydantic_config__ = CONFIG

    action: Literal["off", "replace", "drop"] = "off"
    """`replace` puts `<EMAIL>` and the like in place of what is found; `drop` drops the document, counted as `pii`."""
    kinds: tuple[str, ...] = PII_KINDS
    """What is looked for."""
    phone_regions: tuple[str, ...] = ("US",)
    """ISO 3166 codes of the countries whose national numbers are looked for; numbers with a country code always are."""


@dataclass(frozen=True, kw_only=True)
class LineDedupConfig:
    __pydantic_config__ = CONFIG

    min_characters: int = 30
    """Shorter lines may repeat: they are what texts are made of, not what is copied between them."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    __pydantic_config__ = CONFIG

    name: str
    """Lower-case letters, digits and hyphens; names the source's shards."""
    path: str
    """A file, a folder or a glob (`**` crosses folders) on any fsspec URL."""
    weight: Weight = 1.0
    """The source's share of the training sequences, relative to the other sources' weights. It may change over the run:
    `[{start: 0, weight: 0.7}, {start: 0.8, weight: 0.2}]`, `start` being a share of the run's sequences."""
    rules: str | tuple[str | dict[str, str | int | float], ...] = "none"
    """What documents must pass: `none`, `prose`, `code`, `gopher`, `c4` or `fineweb`; or a list of rules with
    thresholds of your own, `[{rule: gopher_quality, min_words: 30}, c4]`. docs/data.md says what each drops."""
    languages: tuple[str, ...] = ()
    """ISO 639 codes of the languages to keep (`[en]`); every language if empty."""
    language_confidence: float = 0.65
    """How sure the identification must be, from 0 to 1."""
    pii: PiiConfig = field(default_factory=PiiConfig)
    """What is done about personal data and secrets."""
    line_dedup: LineDedupConfig | None = None
    """Keep each line once in the whole source; off if not given."""
    exclude: tuple[str, ...] = ()
    """Globs of files to leave out, relative to the fixed part of `path` (`**/node_modules/**`)."""
    text_field: str = "text"
    """Where JSON lines and parquet rows hold the text."""
    id_field: str = "id"
    """Where they hold a document's id; without one, the id is the file's name and the document's place in it."""


@dataclass(frozen=True, kw_only=True)
class MinHashConfig:
    __pydantic_config__ = CONFIG

    threshold: float = 0.72
    """Jaccard similarity of 5-word shingles at which two of three pairs are found; much below it, nearly none."""
    permutations: int = 112
    """Hash functions; more make the cut at the threshold sharper and cost time and disk."""


@dataclass(frozen=True, kw_only=True)
class DedupConfig:
    __pydantic_config__ = CONFIG

    exact: bool = True
    """Keep one document of each group with equal text after cleaning, over all sources."""
    minhash: MinHashConfig | None = None
    """Keep one document of each group of near-duplicates, over all sources; off if not given."""


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    __pydantic_config__ = CONFIG

    tasks: dict[str, str]
    """Evaluation tasks: name -> path or glob of their data as jsonl, on any fsspec URL."""
    ngram: int = 13
    """Words that a document must share in a row with a task's item to be contaminated (GPT-3's 13)."""
    action: Literal["drop", "mark"] = "drop"
    """`drop` drops the document, counted as `contaminated`; `mark` keeps it and names it in `contaminated.parquet`."""


@dataclass(frozen=True, kw_only=True)
class TokenizerTrainConfig:
    __pydantic_config__ = CONFIG

    vocab_size: int
    """Size of the vocabulary, the end-of-text token and the 256 bytes included."""
    sample_bytes: int = 64_000_000
    """How much text is looked at, shared among the sources by weight."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    __pydantic_config__ = CONFIG

    path: str | None = None
    """A tokenizer to load: Hugging Face's `tokenizer.json`, a `.tiktoken` file of ranks or a SentencePiece `.model`."""
    pattern: str | None = None
    """How a `.tiktoken` file's text is split: `gpt2`, `cl100k`, `o200k`, `llama3` or a regular expression."""
    train: TokenizerTrainConfig | None = None
    """Train a byte-level BPE on the corpus. Exactly one of `path` and `train` is given."""
    end_of_text: str = "<|endoftext|>"
    """The token that ends every document."""


@dataclass(frozen=True, kw_only=True)
class HeldoutConfig:
    __pydantic_config__ = CONFIG

    fraction: float = 0.005
    """Share of the documents, chosen by a hash of their id, that is never trained on."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    __pydantic_config__ = CONFIG

    sources: tuple[SourceConfig, ...]
    tokenizer: TokenizerConfig
    sequence_length: int
    """Tokens in one training sequence."""
    dedup: DedupConfig = field(default_factory=DedupConfig)
    decontaminate: DecontaminateConfig | None = None
    """Look for the evaluation tasks' data in the documents; off if not given."""
    heldout: HeldoutConfig = field(default_factory=HeldoutConfig)
    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """`concatenate` fills every sequence and cuts documents at its end; `best_fit` cuts none that fits into a sequence
    and fills up with padding."""
    shard_bytes: int = 128_000_000
    """Size of a shard file; the last shard of a source is smaller."""
    unit_bytes: int = 16_000_000
    """Input that one task reads: the grain of parallel work and of what a crash can cost."""
    seed: int = 0
    """Keys the document shuffle, the held-out choice and the tokenizer's sample."""
    keep_work: bool = True
    """Keep the cleaned texts, scores and tokens beside the corpora, about 1.5 times the text: a changed threshold then
    reads no input again."""
    cache_bytes: int | None = None
    """With `remote`: disk space of each machine for shards that training reads from there; all of them are fetched into
    the workspace if not given."""
    cache_folder: str | None = None
    """A folder on a disk of the machine's own for these; one in the system's temporary folder if not given."""


EXECUTION = ("unit_bytes", "keep_work", "cache_bytes", "cache_folder")
"""Fields of CorpusConfig that shape no byte of the corpus, and nothing that is trained on it."""
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
"""Names become file names, so nothing that could lead out of a folder."""


def check_name(name: str) -> None:
    """Raises DataMistake if no corpus, and so no run, can be called that."""
    if not NAME.fullmatch(name):
        raise DataMistake(f"name: {name!r} is not made of lower-case letters, digits and hyphens; choose one that is")


def check_config(config: CorpusConfig) -> None:
    """Raises DataMistake, naming the key, if the config cannot describe a corpus."""
    if not config.sources:
        raise DataMistake("sources: there are none; give one or more")
    names = [source.name for source in config.sources]
    for place, source in enumerate(config.sources):
        _check_source(source, f"sources.{place}")
        if source.name in names[:place]:
            raise DataMistake(f"sources.{place}.name: {source.name!r} is there twice; give each source its own name")
    if problem := problem_of([source.weight for source in config.sources]):
        raise DataMistake(problem)
    if (config.tokenizer.path is None) == (config.tokenizer.train is None):
        raise DataMistake("tokenizer: give exactly one of tokenizer.path and tokenizer.train")
    if config.tokenizer.train is not None:
        check_vocab_size(config.tokenizer.train.vocab_size)
        if config.tokenizer.train.sample_bytes < 1:
            raise DataMistake(f"tokenizer.train.sample_bytes: {config.tokenizer.train.sample_bytes} is too small")
    if not 0 <= config.heldout.fraction < 1:
        raise DataMistake(f"heldout.fraction: {config.heldout.fraction} is not in [0, 1); 0 holds out nothing")
    least = {"sequence_length": 2, "shard_bytes": 1, "unit_bytes": 1}
    for key, limit in least.items():
        if getattr(config, key) < limit:
            raise DataMistake(f"{key}: {getattr(config, key)} is too small; give {limit} or more")
    _check_dedup(config.dedup)
    _check_decontaminate(config.decontaminate)


def check_vocab_size(vocab_size: int) -> None:
    """Raises DataMistake if no tokenizer of that size can be trained, whatever the text is."""
    if vocab_size < 257:
        raise DataMistake(
            f"tokenizer.train.vocab_size: {vocab_size} cannot hold the 256 bytes and the end of text; give 257 or more"
        )


def _check_dedup(dedup: DedupConfig) -> None:
    if dedup.minhash is None:
        return
    if not 0 < dedup.minhash.threshold < 1:
        raise DataMistake(f"dedup.minhash.threshold: {dedup.minhash.threshold} is not between 0 and 1; 0.72 is usual")
    if not 1 <= dedup.minhash.permutations <= 1024:
        raise DataMistake(f"dedup.minhash.permutations: {dedup.minhash.permutations} is not in 1 to 1024; 112 is usual")


def _check_decontaminate(decontaminate: DecontaminateConfig | None) -> None:
    if decontaminate is None:
        return
    if not 1 <= len(decontaminate.tasks) <= 64:
        raise DataMistake(f"decontaminate.tasks: {len(decontaminate.tasks)} tasks; give 1 to 64")
    for name in decontaminate.tasks:
        if not NAME.fullmatch(name):
            raise DataMistake(f"decontaminate.tasks: {name!r} is not made of lower-case letters, digits and hyphens")
    if decontaminate.ngram < 8:
        raise DataMistake(f"decontaminate.ngram: {decontaminate.ngram} is too small; 13 is usual, 8 the least")


def _check_source(source: SourceConfig, where: str) -> None:
    if not NAME.fullmatch(source.name):
        raise DataMistake(
            f"{where}.name: {source.name!r} is not made of lower-case letters, digits and hyphens; choose one that is"
        )
    _check_rules(source, f"{where}.rules")
    for code in source.languages:
        if not re.fullmatch("[a-z]{2,3}", code):
            raise DataMistake(f"{where}.languages: {code!r} is no language code; give ones such as en or de")
    if not 0 <= source.language_confidence <= 1:
        raise DataMistake(f"{where}.language_confidence: {source.language_confidence} is not in [0, 1]")
    for kind in source.pii.kinds:
        if kind not in PII_KINDS:
            raise DataMistake(f"{where}.pii.kinds: {kind!r} is unknown; {_nearest(kind, PII_KINDS)}")
    for region in source.pii.phone_regions:
        if not re.fullmatch("[A-Z]{2}", region):
            raise DataMistake(f"{where}.pii.phone_regions: {region!r} is no country code; give ones such as US or DE")
    if source.line_dedup is not None and source.line_dedup.min_characters < 1:
        raise DataMistake(f"{where}.line_dedup.min_characters: {source.line_dedup.min_characters} is not 1 or more")


def _check_rules(source: SourceConfig, where: str) -> None:
    if source.rules not in RULE_SET_NAMES:
        from data_prep.filters import steps_of  # brings the kernels, which a set by its name can do without

        steps_of(source.rules, where)


def _nearest(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}choose one of {', '.join(known)}"
