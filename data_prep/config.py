"""What a corpus is: its sources, cleaning, deduplication, tokenizer and shards."""

from dataclasses import dataclass, field

CONFIG = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    __pydantic_config__ = CONFIG

    name: str
    """Lower-case letters, digits and hyphens; names the source's shards."""
    path: str
    """A file, a folder or a glob (`**` crosses folders) on any fsspec URL."""
    weight: float = 1.0
    """The source's share of the training sequences, relative to the other sources' weights."""
    rules: str = "none"
    """The rule set that documents must pass: `none`, `prose` or `code`."""
    text_field: str = "text"
    """Where JSON lines and parquet rows hold the text."""
    id_field: str = "id"
    """Where they hold a document's id; without one, the id is the file's name and the document's place in it."""


@dataclass(frozen=True, kw_only=True)
class DedupConfig:
    __pydantic_config__ = CONFIG

    exact: bool = True
    """Keep one document of each group with equal text after cleaning, over all sources."""


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
    """A Hugging Face `tokenizer.json` to load."""
    train: TokenizerTrainConfig | None = None
    """Train a byte-level BPE on the corpus. Exactly one of `path` and `train` is given."""


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
    heldout: HeldoutConfig = field(default_factory=HeldoutConfig)
    shard_bytes: int = 256_000_000
    """Size of a shard file; the last shard of a source is smaller."""
    unit_bytes: int = 16_000_000
    """Input that one task reads: the grain of parallel work and of what a crash can cost."""
    seed: int = 0
    """Keys the document shuffle, the held-out choice and the tokenizer's sample."""
