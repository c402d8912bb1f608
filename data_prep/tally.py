"""Adds up the tasks' records: what was read, dropped and kept of each source, and what follows from that."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from data_prep.assemble import Packed
from data_prep.config import CorpusConfig
from data_prep.errors import DataMistake
from data_prep.manifest import FORMAT_VERSION, HeldoutRecord, Manifest, ShardRecord, SourceRecord, sealed
from data_prep.parts import EncodeRecord, SelectRecord, SettleRecord
from data_prep.plan import Plan
from data_prep.shard_table import shards_of
from data_prep.shards import sequences_per_shard
from data_prep.tokenizer import TokenizerFacts
from data_prep.weights import mean_weights


@dataclass(frozen=True, kw_only=True)
class Tally:
    """A source after its duplicates were dropped; held-out documents are still among the kept."""

    source: str
    documents_read: int
    dropped: dict[str, int]
    text_bytes: int
    edited: dict[str, int] = field(default_factory=dict)
    pii: dict[str, int] = field(default_factory=dict)
    contaminated: dict[str, int] = field(default_factory=dict)


def tally(
    config: CorpusConfig, unit_sources: Sequence[int], read: Sequence[SelectRecord], settled: Sequence[SettleRecord]
) -> list[Tally]:
    """One entry a source. `unit_sources` gives the source of each unit, in the order of `read`."""
    tallies = []
    for place, source in enumerate(config.sources):
        mine = [record for owner, record in zip(unit_sources, read, strict=True) if owner == place]
        left = [record for record in settled if record.part.source == place]
        tallies.append(
            Tally(
                source=source.name,
                documents_read=sum(record.documents_read for record in mine),
                dropped=_summed([*(record.dropped for record in mine), *(record.dropped for record in left)]),
                text_bytes=sum(record.part.text_bytes for record in left),
                edited=_summed(record.edited for record in mine),
                pii=_summed(record.pii for record in mine),
                contaminated=_summed(record.contaminated for record in mine),
            )
        )
    return tallies


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items()))


def check_kept(tallies: Sequence[Tally]) -> None:
    """Raises DataMistake if nothing of a source is left: a mixture cannot draw from it."""
    for one in tallies:
        if not one.text_bytes:
            reasons = ", ".join(f"{reason} {count}" for reason, count in one.dropped.items()) or "there were none"
            raise DataMistake(
                f"sources.{one.source}: none of its {one.documents_read} documents is left ({reasons});"
                " check its text_field and rules, or take it out"
            )


def sample_limits(config: CorpusConfig, tallies: Sequence[Tally]) -> list[int]:
    """The largest sample key of each source that is looked at, so that its share of `sample_bytes` is about met."""
    assert config.tokenizer.train is not None
    weights = mean_weights([source.weight for source in config.sources])
    limits = []
    for weight, one in zip(weights, tallies, strict=True):
        share_bytes = int(config.tokenizer.train.sample_bytes * weight / sum(weights))
        limits.append(min(2**64 - 1, share_bytes * 2**64 // one.text_bytes))
    return limits


def summarize(
    plan: Plan,
    facts: TokenizerFacts,
    tallies: Sequence[Tally],
    encoded: Sequence[Sequence[EncodeRecord]],
    packed: Sequence[Packed],
    shards: Sequence[ShardRecord],
    heldout: Sequence[HeldoutRecord],
) -> Manifest:
    """The sealed manifest. `encoded` and `packed` are given by source, `shards` in the manifest's order."""
    config = plan.config
    table = shards_of(shards, tuple(one.source for one in tallies))
    sources = []
    for place, (one, records, stream) in enumerate(zip(tallies, encoded, packed, strict=True)):
        made = table.table[table.table["source"] == place]
        num_tokens, num_sequences = sum(record.num_tokens for record in records), int(made["num_sequences"].sum())
        sources.append(
            SourceRecord(
                name=one.source,
                documents_read=one.documents_read,
                dropped=one.dropped,
                documents_heldout=sum(record.heldout_documents for record in records),
                documents_kept=sum(record.num_documents for record in records),
                text_bytes=sum(record.text_bytes for record in records),
                num_tokens=num_tokens,
                num_sequences=num_sequences,
                num_shards=len(made),
                packing=config.packing,
                padding_tokens=num_sequences * config.sequence_length - num_tokens,
                cut_documents=int(made["cut_documents"].sum()),
                cells_sha256=stream.sha256,
                edited=one.edited,
                pii=one.pii,
                contaminated=one.contaminated,
            )
        )
    return sealed(
        Manifest(
            format_version=FORMAT_VERSION,
            name=plan.name,
            sequence_length=config.sequence_length,
            sequences_per_shard=sequences_per_shard(config.shard_bytes, config.sequence_length, facts.token_dtype),
            token_dtype=facts.token_dtype,
            vocab_size=facts.vocab_size,
            end_of_text_id=facts.end_of_text_id,
            tokenizer_sha256=facts.sha256,
            tokenizer_backend=facts.backend,
            config_digest=plan.config_digest,
            sources=tuple(sources),
            shards=table,
            heldout=tuple(heldout),
            seed=config.seed,
        )
    )
