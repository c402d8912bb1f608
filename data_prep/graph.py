"""The graph of a build's tasks: `choose_documents`, then `build_corpus`, each from top to bottom.

    inputs -> read, score, choose -> drop duplicates -> hold out
           -> tokenizer -> encode -> merge -> pack cells -> write shards -> manifest

Decisions are made here, from records; text is read and written by the tasks. Each task is named by a digest of what it
depends on, so the work folder serves every build whose tasks depend on the same.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.assemble import (
    Packed,
    PackRecord,
    cell_ranges,
    pack_cells,
    write_cells,
    write_heldout_documents,
    write_shard,
)
from data_prep.cells import MergeRecord, Run, merge_parts, parts_of, split
from data_prep.choosing import choosing, read_unit
from data_prep.config import CorpusConfig
from data_prep.dedup import num_buckets
from data_prep.deduplicating import (
    Drops,
    find_duplicates,
    find_near_pairs,
    find_repeated_lines,
    hash_lines,
    join_near_pairs,
    settle,
)
from data_prep.encoding import checked_halvings, encode_part, make_tokenizer, sample_part
from data_prep.fates import describe_part, find_contaminated, write_dropped
from data_prep.files import atomic_file, digest, write_atomic, write_record
from data_prep.heldout import Bound, find_bound
from data_prep.inputs import Unit, cut_units, slice_key
from data_prep.manifest import HeldoutRecord, Manifest, ShardRecord
from data_prep.minhash import bands_for
from data_prep.pack import cells_of_span, num_cells, shard_spans
from data_prep.parts import (
    ContaminatedRecord,
    DedupRecord,
    DroppedRecord,
    EncodeRecord,
    LinesRecord,
    NearRecord,
    Part,
    SampleRecord,
    SelectRecord,
    SettleRecord,
)
from data_prep.plan import DROPPED_NAME
from data_prep.reading import index_tasks, refining
from data_prep.shards import sequences_per_shard
from data_prep.stages import Batch, Stages, Task, names_of, shard_is_there, task
from data_prep.statistics import STATISTICS_NAME, Clusters, Statistics, merged
from data_prep.tally import Tally, check_kept, sample_limits, summarize, tally
from data_prep.tokenizer import EXACT, TokenizerFacts

MERGED_AT_ONCE = 256
"""Parts that are merged into one: files that a task opens."""
RUN_TOKENS = 64_000_000
"""Tokens of what comes of a merge, about."""
CONTAMINATED_NAME = "contaminated.parquet"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The documents of a corpus."""

    read: list[SelectRecord]
    """What the scores left of each unit."""
    settled: dict[str, SettleRecord]
    """Name of the keys of each of its parts -> what is left of it without duplicates."""
    exact_clusters: dict[int, int]
    near_clusters: dict[int, int]
    """Documents of a group of duplicates -> groups of that size."""
    tallies: list[Tally]
    bounds: list[Bound]
    """Where the held-out documents of each source end."""

    @property
    def left(self) -> list[SettleRecord]:
        """The parts that have documents, in order of place."""
        return [one for one in self.settled.values() if one.part.num_documents]

    @property
    def halvings(self) -> list[int]:
        """Of the documents of each source, to get those that both tokenizers encode."""
        sources = range(len(self.tallies))
        return [
            checked_halvings(sum(one.part.num_documents for one in self.left if one.part.source == s)) for s in sources
        ]

    @property
    def num_cells(self) -> list[int]:
        """Of each source."""
        return [num_cells(one.text_bytes) for one in self.tallies]


def choose_documents(stages: Stages) -> Chosen:
    """From input files to the documents of the corpus."""
    config = stages.plan.config
    units = [
        unit for source, files in enumerate(stages.plan.inputs) for unit in cut_units(source, files, config.unit_bytes)
    ]
    index_tasks(stages.work)
    read = _read(stages, units)
    drops, exact_clusters, near_clusters = _find_duplicates(stages, read)
    settled = _settle(stages, read, drops)
    tallies = tally(config, [unit.source for unit in units], read, list(settled.values()))
    check_kept(tallies)
    return Chosen(
        read=read,
        settled=settled,
        exact_clusters=exact_clusters,
        near_clusters=near_clusters,
        tallies=tallies,
        bounds=_hold_out(config, list(settled.values())),
    )


def build_corpus(stages: Stages, chosen: Chosen) -> Manifest:
    """From the documents to the corpus; all of it but its manifest, which is returned."""
    tokenizer, facts = _make_tokenizer(stages, chosen)
    encoded = _encode(stages, chosen, tokenizer, facts)
    if not all(record.agreed for one in encoded for record in one):
        facts = replace(facts, backend=EXACT)
        encoded = _encode(stages, chosen, tokenizer, facts)
    runs = _merge(stages, encoded, chosen.num_cells, facts)
    packed = _pack(stages, runs, chosen.num_cells)
    shards = _write_shards(stages, runs, packed, facts)
    heldout = _write_heldout(stages, encoded)
    _write_contaminated(stages, chosen)
    _write_statistics(stages, chosen)
    return summarize(stages.plan, facts, chosen.tallies, encoded, packed, shards, heldout)


def _read(stages: Stages, units: Sequence[Unit]) -> list[SelectRecord]:
    """Beside it, a tokenizer that need not be trained is loaded: what is wrong with it is told before long."""
    given = [_tokenizer_task(stages, samples=())] if stages.plan.config.tokenizer.train is None else []
    reading = [_read_task(stages, unit) for unit in units]
    _, read = stages.run_together(Batch(TokenizerFacts, given), Batch(SelectRecord, reading, stages.work.has_texts_of))
    return read


def _read_task(stages: Stages, unit: Unit) -> Task:
    """Its key says by which thresholds it chooses; its argument, where the work folder has the texts and scores."""
    plan, source = stages.plan, stages.plan.config.sources[unit.source]
    slices = [slice_key(piece, plan.fingerprints[piece.file.url], source) for piece in unit.slices]
    refined = f"refine/{digest([slices, refining(source, plan.config, plan.tasks_digest)])[:32]}"
    stages.used.add(refined)
    return task("read", read_unit, refined, unit, depends_on=[refined, choosing(source, plan.config)])


def _parts(read: Sequence[SelectRecord]) -> list[Part]:
    return [part for record in read for part in record.parts if part.num_documents]


def _content(stages: Stages, read: Sequence[SelectRecord]) -> str:
    """What it depends on which documents are duplicates."""
    minhash = stages.plan.config.dedup.minhash
    return digest([[record.content for record in read], None if minhash is None else asdict(minhash)])


def _find_duplicates(stages: Stages, read: Sequence[SelectRecord]) -> tuple[Drops, dict[int, int], dict[int, int]]:
    """What is dropped as exact and as near-duplicates, and the sizes of their clusters."""
    dedup, parts, content = stages.plan.config.dedup, _parts(read), _content(stages, read)
    listed, buckets = stages.work.write_parts(parts), range(num_buckets(sum(part.num_documents for part in parts)))
    drops, exact_clusters, near_clusters = Drops(), Counter[int](), {}
    if dedup.exact:
        tasks = [task("dedup", find_duplicates, b, len(buckets), listed, depends_on=[content, b]) for b in buckets]
        for record in stages.run(DedupRecord, tasks):
            exact_clusters.update(record.clusters)
        drops = replace(drops, exact=names_of(tasks))
    if dedup.minhash is not None:
        num_bands, _ = bands_for(dedup.minhash.threshold, dedup.minhash.permutations)
        pairs = [
            task("pairs", find_near_pairs, band, b, len(buckets), listed, depends_on=[content, band, b])
            for band in range(num_bands)
            for b in buckets
        ]
        stages.run(DedupRecord, pairs)
        join = task("near", join_near_pairs, names_of(pairs), drops.exact, depends_on=[names_of(pairs), drops.exact])
        [near] = stages.run(NearRecord, [join])
        drops, near_clusters = replace(drops, near=(join.name,)), near.clusters
    return drops, dict(sorted(exact_clusters.items())), near_clusters


def _settle(stages: Stages, read: Sequence[SelectRecord], drops: Drops) -> dict[str, SettleRecord]:
    """Name of each part's keys -> what is left of it, lines that its source repeats taken out."""
    parts, content = _parts(read), _content(stages, read)
    lines = _find_repeated_lines(stages, parts, drops, content)
    tasks = []
    for number, part in enumerate(parts):
        mine = replace(drops, lines=lines.get(part.source, ()))
        tasks.append(task("settle", settle, number, part, mine, depends_on=[content, number, part.keys, astuple(mine)]))
    return dict(zip((part.keys for part in parts), stages.run(SettleRecord, tasks), strict=True))


def _find_repeated_lines(
    stages: Stages, parts: Sequence[Part], drops: Drops, content: str
) -> dict[int, tuple[str, ...]]:
    """Source -> names of the files that say which of its lines were there before."""
    found: dict[int, tuple[str, ...]] = {}
    for source, settings in enumerate(stages.plan.config.sources):
        if settings.line_dedup is None:
            continue
        depends_on = [content, astuple(drops), settings.line_dedup.min_characters]
        mine = [(number, part) for number, part in enumerate(parts) if part.source == source]
        hashed = [
            task("lines", hash_lines, number, part, drops, depends_on=[*depends_on, number]) for number, part in mine
        ]
        num_lines = sum(record.num_lines for record in stages.run(LinesRecord, hashed))
        places = [(number, one.name) for (number, _), one in zip(mine, hashed, strict=True)]
        buckets = range(num_buckets(num_lines))
        repeated = [
            task("repeated", find_repeated_lines, b, len(buckets), places, depends_on=[*depends_on, source, b])
            for b in buckets
        ]
        stages.run(DedupRecord, repeated)
        found[source] = names_of(repeated)
    return found


def _hold_out(config: CorpusConfig, settled: Sequence[SettleRecord]) -> list[Bound]:
    """Where the held-out documents of each source end."""
    return [
        find_bound(config.heldout.fraction, [one.extremes for one in settled if one.part.source == source])
        for source in range(len(config.sources))
    ]


def _make_tokenizer(stages: Stages, chosen: Chosen) -> tuple[str, TokenizerFacts]:
    """Its name in the work folder, and what it is. A copy goes to the corpus."""
    config = stages.plan.config
    samples: tuple[str, ...] = ()
    if config.tokenizer.train is not None:
        limits = sample_limits(config, chosen.tallies)
        sampled = []
        for one in chosen.left:
            which = (chosen.bounds[one.part.source], limits[one.part.source])
            sampled.append(task("sample", sample_part, one.part, *which, depends_on=[one.content, *which]))
        stages.run(SampleRecord, sampled)
        samples = names_of(sampled)
    making = _tokenizer_task(stages, samples)
    [facts] = stages.run(TokenizerFacts, [making])
    made = stages.work.file(making.name, "tokenizer").read_bytes()
    write_atomic(stages.plan.folder / "tokenizer.json", made)
    return making.name, facts


def _tokenizer_task(stages: Stages, samples: tuple[str, ...]) -> Task:
    depends_on = [stages.plan.tokenizer_digest, samples, asdict(stages.plan.config.tokenizer)]
    return task("tokenizer", make_tokenizer, samples, depends_on=depends_on)


def _encode(stages: Stages, chosen: Chosen, tokenizer: str, facts: TokenizerFacts) -> list[list[EncodeRecord]]:
    """What came of the parts of each source."""
    tasks, halvings = [], chosen.halvings
    for one in chosen.left:
        which = (chosen.bounds[one.part.source], halvings[one.part.source])
        depends_on = [one.content, *which, facts.sha256, facts.backend]
        tasks.append(task("encode", encode_part, one.part, *which, tokenizer, facts, depends_on=depends_on))
    encoded: list[list[EncodeRecord]] = [[] for _ in stages.plan.config.sources]
    for one, record in zip(chosen.left, stages.run(EncodeRecord, tasks), strict=True):
        encoded[one.part.source].append(record)
    return encoded


def _merge(
    stages: Stages, encoded: Sequence[Sequence[EncodeRecord]], num_cells: Sequence[int], facts: TokenizerFacts
) -> list[list[Run]]:
    """Where the cells of each source lie. A source of few parts is read from them; of many, or every shard would open
    every part, groups of parts are merged first, a stretch of cells at a time."""
    runs: list[list[Run]] = []
    tasks = []
    for records, cells in zip(encoded, num_cells, strict=True):
        if len(records) <= MERGED_AT_ONCE:
            runs.append([Run(cells=range(cells), parts=tuple(one.name for one in records))])
            continue
        runs.append([])
        for first in range(0, len(records), MERGED_AT_ONCE):
            group = records[first : first + MERGED_AT_ONCE]
            parts = tuple(one.name for one in group)
            for some in split(cells, -(-sum(one.num_tokens for one in group) // RUN_TOKENS)):
                depends_on = [parts, some.start, some.stop, cells]
                tasks.append(task("merge", merge_parts, some, cells, parts, facts, depends_on=depends_on))
                runs[-1].append(Run(cells=some, parts=(tasks[-1].name,)))
    stages.run(MergeRecord, tasks)
    return runs


def _pack(stages: Stages, runs: Sequence[Sequence[Run]], num_cells: Sequence[int]) -> list[Packed]:
    """Where the cells of each source begin in its stream of rows."""
    config = stages.plan.config
    tasks: list[list[Task]] = []
    for mine, cells in zip(runs, num_cells, strict=True):
        tasks.append([])
        for some in cell_ranges(cells):
            parts = parts_of(mine, some)
            depends_on = [parts, some.start, some.stop, cells, config.packing, config.sequence_length]
            tasks[-1].append(task("pack", pack_cells, some, cells, parts, depends_on=depends_on))
    records = iter(stages.run(PackRecord, [one for mine in tasks for one in mine]))
    return [
        write_cells(stages.plan.folder, source.name, [next(records) for _ in mine])
        for source, mine in zip(config.sources, tasks, strict=True)
    ]


def _write_shards(
    stages: Stages, runs: Sequence[Sequence[Run]], packed: Sequence[Packed], facts: TokenizerFacts
) -> list[ShardRecord]:
    config = stages.plan.config
    per_shard = sequences_per_shard(config.shard_bytes, config.sequence_length, facts.token_dtype)
    tasks = []
    for source, mine, cells in zip(config.sources, runs, packed, strict=True):
        for span in shard_spans(cells.num_tokens, config.sequence_length, per_shard):
            parts = parts_of(mine, cells_of_span(span, cells.starts))
            depends_on = [source.name, parts, astuple(span), cells.sha256, config.sequence_length, config.packing]
            tasks.append(task("shards", write_shard, source.name, span, parts, facts, depends_on=depends_on))
    return stages.run(ShardRecord, tasks, lambda shard: shard_is_there(stages.plan, shard))


def _write_heldout(stages: Stages, encoded: Sequence[Sequence[EncodeRecord]]) -> list[HeldoutRecord]:
    tasks = []
    for source, records in zip(stages.plan.config.sources, encoded, strict=True):
        if holding := tuple(one.name for one in records if one.heldout_documents):
            tasks.append(
                task("heldout", write_heldout_documents, source.name, holding, depends_on=[source.name, holding])
            )
    folder = stages.plan.folder / "heldout"
    return stages.run(HeldoutRecord, tasks, lambda one: (folder / one.name).is_file())


def _write_contaminated(stages: Stages, chosen: Chosen) -> None:
    """Names the documents that hold evaluation data, dropped or not: `contaminated.parquet`."""
    if stages.plan.config.decontaminate is None:
        return
    parts = [part for record in chosen.read if record.contaminated for part in record.parts]
    tasks = [
        task("contaminated", find_contaminated, part.source, part.docs, depends_on=[part.keys, part.docs])
        for part in parts
    ]
    records = stages.run(ContaminatedRecord, tasks)
    rows = sorted((one.source, *hit) for one in records for hit in one.hits)
    columns = zip(("source", "id", "task", "ngrams"), zip(*rows, strict=True), strict=True) if rows else ()
    schema = pa.schema([("source", pa.string()), ("id", pa.string()), ("task", pa.string()), ("ngrams", pa.int64())])
    table = pa.table(dict(columns), schema=schema) if rows else schema.empty_table()
    with atomic_file(stages.plan.folder / CONTAMINATED_NAME) as file:
        pq.write_table(table, file)


def _write_statistics(stages: Stages, chosen: Chosen) -> None:
    """What the report shows beside the manifest."""
    tasks = [task("fates", describe_part, *arguments, depends_on=key) for arguments, key in _with_fates(chosen)]
    total = Statistics(exact=Clusters(sizes=chosen.exact_clusters), near=Clusters(sizes=chosen.near_clusters))
    for one in stages.run(Statistics, tasks):
        total = merged(total, one)
    write_record(stages.plan.folder / STATISTICS_NAME, total)


def write_dropped_documents(stages: Stages, chosen: Chosen) -> None:
    """Writes what was dropped and why, to look at, into the corpus's folder."""
    tasks = [
        task("dropped", write_dropped, number, *arguments, depends_on=[number, key])
        for number, (arguments, key) in enumerate(_with_fates(chosen))
    ]
    folder = stages.plan.folder / "dropped"
    written = stages.run(DroppedRecord, tasks, lambda one: (folder / one.name).is_file())
    reasons = sum((Counter(one.reasons) for one in written), Counter[str]())
    write_record(stages.plan.folder / DROPPED_NAME, dict(sorted(reasons.items())))


def _with_fates(chosen: Chosen) -> list[tuple[tuple[Any, ...], Any]]:
    """Of each refined part: what the tasks need that tell the fate of its documents, and what that depends on."""
    found = []
    for part in (part for record in chosen.read for part in record.parts):
        settled, bound = chosen.settled.get(part.keys), chosen.bounds[part.source]
        arguments = (part.source, part.docs, settled.part if settled else None, bound)
        depends_on = [part.keys, settled.content if settled else "", settled.dropped if settled else {}, bound]
        found.append((arguments, depends_on))
    return found
