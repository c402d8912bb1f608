"""The Manifest: what a corpus holds, and the digest that says two corpora are the same.

The manifest is written last, so a corpus folder without one does not exist for anybody. It holds nothing that depends
on time, machine or number of workers: equal inputs and an equal config give an equal digest.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from data_prep.files import digest, read_record, write_record

FORMAT_VERSION = 1
HEADER_BYTES = 512
MANIFEST_NAME = "manifest.json"


def stride_bytes(sequence_length: int, token_dtype: str) -> int:
    """Bytes from one sequence's payload to the next in a shard: header + payload rounded up to 512."""
    payload = sequence_length * {"uint16": 2, "uint32": 4}[token_dtype]
    return HEADER_BYTES + -(-payload // 512) * 512


def sidecar_name(shard: str) -> str:
    """The provenance file's name beside a shard."""
    return f"{shard.removesuffix('.tar')}.docs.parquet"


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    name: str
    """File under `shards/`: `SOURCE-00000.tar`; its provenance is `SOURCE-00000.docs.parquet`."""
    source: str
    num_sequences: int
    num_documents: int
    """Documents with at least one token here; one that crosses into the next shard counts in both."""
    size_bytes: int
    sha256: str
    docs_sha256: str


@dataclass(frozen=True, kw_only=True)
class HeldoutRecord:
    name: str
    """File under `heldout/`: `SOURCE.parquet`, columns `id` and `text`, sorted by id."""
    source: str
    num_documents: int
    text_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    name: str
    documents_read: int
    dropped: dict[str, int]
    """Reason -> documents: rules, `exact_duplicate`, and what could not be read (`not_json`, `no_text`, `not_utf8`)."""
    documents_heldout: int
    documents_kept: int
    """Documents in the shards."""
    text_bytes: int
    """UTF-8 bytes of the kept documents after cleaning."""
    num_tokens: int
    """Tokens in the shards, end-of-text included and padding not."""
    num_sequences: int
    padding_tokens: int
    """Extra end-of-text tokens that fill the source's last sequence."""
    edited: dict[str, int] = field(default_factory=dict)
    """Edit (`c4_lines`) -> documents it took lines out of; duplicates among them are not yet dropped."""
    pii: dict[str, int] = field(default_factory=dict)
    """Kind -> how many were found, and replaced or their documents dropped; never what was found."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    format_version: int
    name: str
    sequence_length: int
    sequences_per_shard: int
    """Every shard of a source but its last has exactly this many."""
    token_dtype: str
    """`uint16` or `uint32`, little-endian."""
    vocab_size: int
    end_of_text_id: int
    tokenizer_sha256: str
    tokenizer_backend: str
    """`gigatoken`, or `tokenizers` if the two disagreed on this corpus."""
    config_digest: str
    """Digest of the parts of the config that shape the corpus."""
    sources: tuple[SourceRecord, ...]
    shards: tuple[ShardRecord, ...]
    """Ordered by source as configured, then by number."""
    heldout: tuple[HeldoutRecord, ...]
    seed: int = 0
    """Keys the document shuffle: with it a document's id leads to its shard by binary search."""
    digest: str = ""
    """sha256 of this record with an empty digest."""

    @cached_property
    def stride(self) -> int:
        return stride_bytes(self.sequence_length, self.token_dtype)

    def source_shards(self, source: str) -> tuple[ShardRecord, ...]:
        return tuple(shard for shard in self.shards if shard.source == source)


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with its digest filled in."""
    bare = replace(manifest, digest="")
    return replace(bare, digest=digest(bare))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    assert manifest.digest, "seal the manifest first"
    write_record(folder / MANIFEST_NAME, manifest)


def read_manifest(folder: Path) -> Manifest:
    """Loads a corpus's manifest. Raises ValueError if it was changed since it was sealed."""
    manifest = read_record(Manifest, folder / MANIFEST_NAME)
    if sealed(manifest).digest != manifest.digest:
        raise ValueError(f"{folder / MANIFEST_NAME} does not match its own digest; build the corpus again")
    return manifest


def as_rows(manifest: Manifest) -> list[dict[str, Any]]:
    """One flat row a source, for tables and `--json`."""
    return [
        {
            "source": source.name,
            "read": source.documents_read,
            "dropped": sum(source.dropped.values()),
            "heldout": source.documents_heldout,
            "kept": source.documents_kept,
            "tokens": source.num_tokens,
            "sequences": source.num_sequences,
        }
        for source in manifest.sources
    ]
