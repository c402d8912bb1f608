"""The Manifest: what a corpus holds, and the digest that says two corpora are the same.

    manifest.json    totals of each source, and the sha256 of every other file but the shards   ManifestRecord
    shards.npy       a row a shard, with its sha256; never parsed as a whole                    Shards

The manifest is written last, so a corpus folder without one does not exist for anybody. It holds nothing that depends
on time, machine or number of workers: equal inputs and an equal config give an equal digest. That digest covers the
table by its sha256, and so every shard: a million of them are verified in 0.1 s and mapped.
"""

import json
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import DataMistake
from data_prep.files import digest, read_record, write_atomic, write_record

if TYPE_CHECKING:
    from data_prep.shard_table import Shards  # brings numpy, which `status` can do without

FORMAT_VERSION = 2
HEADER_BYTES = 512
MANIFEST_NAME = "manifest.json"
SHARDS_NAME = "shards.npy"
SHARD_SUFFIX = ".tar"


def stride_bytes(sequence_length: int, token_dtype: str) -> int:
    """Bytes from one sequence's payload to the next in a shard: header + payload rounded up to 512."""
    payload = sequence_length * {"uint16": 2, "uint32": 4}[token_dtype]
    return HEADER_BYTES + -(-payload // 512) * 512


def shard_name(source: str, number: int) -> str:
    return f"{source}-{number:05d}{SHARD_SUFFIX}"


def sidecar_name(shard: str) -> str:
    """The provenance file's name beside a shard."""
    return f"{shard.removesuffix(SHARD_SUFFIX)}.docs.parquet"


def cells_name(source: str) -> str:
    """The file beside a source's shards that says where each cell of its documents begins."""
    return f"{source}.cells.npy"


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    name: str
    """File under `shards/`: `SOURCE-00000.tar`; its provenance is `SOURCE-00000.docs.parquet`."""
    source: str
    number: int
    """Among its source's shards, from 0."""
    num_sequences: int
    num_documents: int
    """Documents with at least one token here; one that crosses into the next shard counts in both."""
    cut_documents: int
    """Documents that begin here and lie in more than one sequence."""
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
    num_shards: int
    packing: str
    """`concatenate` or `best_fit`: how documents came into sequences."""
    padding_tokens: int
    """Extra end-of-text tokens that fill what documents leave of their sequences."""
    cut_documents: int
    """Documents that lie in more than one sequence."""
    cells_sha256: str
    """Of `SOURCE.cells.npy`: the stream's token with which each cell begins, and behind the last its end, int64."""
    edited: dict[str, int] = field(default_factory=dict)
    """Edit (`c4_lines`) -> documents it took lines out of; duplicates among them are not yet dropped."""
    pii: dict[str, int] = field(default_factory=dict)
    """Kind -> how many were found, and replaced or their documents dropped; never what was found."""
    contaminated: dict[str, int] = field(default_factory=dict)
    """Evaluation task -> documents that hold some of its data."""


@dataclass(frozen=True, kw_only=True)
class ManifestRecord:
    """What `manifest.json` holds."""

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
    heldout: tuple[HeldoutRecord, ...]
    seed: int = 0
    """Keys the document shuffle: with it a document's id leads to its cell, and that to its shard."""
    shards_sha256: str = ""
    """Of `shards.npy`."""
    digest: str = ""
    """sha256 of this record with an empty digest."""

    @cached_property
    def stride(self) -> int:
        return stride_bytes(self.sequence_length, self.token_dtype)


@dataclass(frozen=True, kw_only=True)
class Manifest(ManifestRecord):
    shards: "Shards" = field(repr=False, compare=False)
    """Ordered by source as configured, then by number. Compared by their sha256."""

    def source_shards(self, source: str) -> "Shards":
        """One source's shards, by number."""
        at = [one.name for one in self.sources].index(source)
        first = sum(one.num_shards for one in self.sources[:at])
        return self.shards[first : first + self.sources[at].num_shards]


def record_of(manifest: Manifest) -> ManifestRecord:
    return ManifestRecord(**{one.name: getattr(manifest, one.name) for one in fields(ManifestRecord)})


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with its digests filled in."""
    bare = replace(manifest, shards_sha256=manifest.shards.sha256, digest="")
    return replace(bare, digest=digest(record_of(bare)))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    assert manifest.digest, "seal the manifest first"
    write_atomic(folder / SHARDS_NAME, manifest.shards.file_bytes())
    write_record(folder / MANIFEST_NAME, record_of(manifest))


def read_manifest_record(folder: Path) -> ManifestRecord:
    """Loads what a corpus's manifest says of its sources, without a look at its shards.

    Raises DataMistake if it is of another format, ValueError if it was changed since it was sealed.
    """
    path = folder / MANIFEST_NAME
    _check_version(path)
    record = read_record(ManifestRecord, path)
    if digest(replace(record, digest="")) != record.digest:
        raise ValueError(f"{path} does not match its own digest; build the corpus again")
    return record


def read_manifest(folder: Path) -> Manifest:
    """Loads a corpus's manifest; the table of its shards is hashed and mapped. Raises as `read_manifest_record`."""
    from data_prep.shard_table import load_shards

    record = read_manifest_record(folder)
    names = tuple(source.name for source in record.sources)
    shards = load_shards(folder / SHARDS_NAME, record.shards_sha256, names)
    return Manifest(**{one.name: getattr(record, one.name) for one in fields(record)}, shards=shards)


def _check_version(path: Path) -> None:
    try:
        version = json.loads(path.read_bytes())["format_version"]
    except (ValueError, TypeError, KeyError):
        return  # no manifest at all, which reading it as one says better
    if version != FORMAT_VERSION:
        raise DataMistake(
            f"{path} has format {version}, and this version reads {FORMAT_VERSION}; build the corpus again"
        )


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
