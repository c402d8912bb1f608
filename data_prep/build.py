"""prepare(): from a config to a corpus. The Ray graph of a build reads from top to bottom in `_build`.

    inputs -> read, clean, filter -> drop duplicates -> choose held-out -> tokenizer -> encode, cut into cells
           -> merge cells into shards -> manifest

Everything is a pure function of the config and the inputs' bytes, and every task commits by a record written last. So a
build that was killed goes on where it was, and any number of workers makes the same bytes.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from data_prep.config import CorpusConfig, check_config
from data_prep.crew import cannot_write, hired
from data_prep.errors import DataMistake
from data_prep.files import TEMPORARY_PREFIX
from data_prep.manifest import MANIFEST_NAME, Manifest, read_manifest, sidecar_name, write_manifest
from data_prep.plan import make_plan, try_plan
from data_prep.stages import Call, Progress, Stages, shard_is_there

CELL_BYTES = 16_000_000
"""Text of a cell, about: what two shards read in vain at their border."""


def prepare(
    config: CorpusConfig,
    folder_root: Path,
    name: str,
    *,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[Path, Manifest]:
    """Builds the corpus, or finds that it exists. Returns its folder, `folder_root/NAME-DIGEST`, and its manifest.

    `workers`: Ray workers, all cores by default; 0 works in this process without Ray. Raises DataMistake with one line
    on what the user can mend, DataError on what failed otherwise. May be called again after any end, also a kill.
    """
    check_config(config, name)
    folder_root = folder_root.absolute()
    try:
        folder_root.mkdir(parents=True, exist_ok=True)
        plan = make_plan(config, folder_root, name)
        if not is_complete(plan.folder):
            with _alone_at(plan.scratch):
                if not is_complete(plan.folder):  # who held the lock may have built it
                    with hired(workers) as crew:
                        manifest = _build(Stages(plan, crew, progress))
                    _remove_strangers(plan.folder, manifest)
                    write_manifest(plan.folder, manifest)
            shutil.rmtree(plan.scratch, ignore_errors=True)
        return plan.folder, read_manifest(plan.folder)
    except OSError as error:
        raise DataMistake(cannot_write(error)) from error


def find_corpus(config: CorpusConfig, folder_root: Path, name: str) -> Path | None:
    """The folder of the complete corpus that `prepare` would return at once, or None. Hashes no input anew."""
    check_config(config, name)
    plan = try_plan(config, folder_root.absolute(), name)
    return plan.folder if plan is not None and is_complete(plan.folder) else None


def is_complete(folder: Path) -> bool:
    return (folder / MANIFEST_NAME).is_file()


def _build(stages: Stages) -> Manifest:
    """The stages in order. Decisions are made here, from records; text is read and written by the tasks."""
    from data_prep import assemble, tasks
    from data_prep.dedup import num_buckets
    from data_prep.inputs import cut_units
    from data_prep.manifest import HeldoutRecord, ShardRecord
    from data_prep.pack import shard_spans
    from data_prep.parts import DedupRecord, EncodeRecord, ReadRecord, SampleRecord
    from data_prep.shards import sequences_per_shard
    from data_prep.tally import check_kept, sample_limits, summarize, tally
    from data_prep.tokenizer import EXACT, TokenizerFacts

    plan, work, config = stages.plan, stages.work, stages.plan.config
    sources = range(len(config.sources))

    units = [unit for source in sources for unit in cut_units(source, plan.inputs[source], config.unit_bytes)]
    read = stages.run("read", ReadRecord, [(tasks.read_unit, (i, unit)) for i, unit in enumerate(units)])
    parts = [part for record in read for part in record.parts]

    buckets = num_buckets(sum(part.num_documents for part in parts)) if config.dedup.exact else 0
    dedup = stages.run("dedup", DedupRecord, [(tasks.find_duplicates, (b, buckets, parts)) for b in range(buckets)])
    tallies = tally(config, [unit.source for unit in units], read, dedup)
    check_kept(tallies)
    bounds = [tasks.find_heldout_bound(work, buckets, parts, source) for source in sources]

    if config.tokenizer.train is not None:
        limits = sample_limits(config, tallies)
        stages.run(
            "sample",
            SampleRecord,
            [(tasks.sample_part, (buckets, i, p, bounds[p.source], limits[p.source])) for i, p in enumerate(parts)],
        )
    make_tokenizer = (tasks.make_tokenizer, ([part.name for part in parts],))
    [facts] = stages.run("tokenizer", TokenizerFacts, [make_tokenizer], lambda _: work.tokenizer.is_file())

    cells = [max(1, -(-one.text_bytes // CELL_BYTES)) for one in tallies]

    def encode() -> list[EncodeRecord]:
        return stages.run(
            f"encode-{facts.backend}",
            EncodeRecord,
            [
                (tasks.encode_part, (buckets, i, part, bounds[part.source], cells[part.source], facts))
                for i, part in enumerate(parts)
            ],
        )

    encoded = encode()
    if not all(record.agreed for record in encoded):
        facts = replace(facts, backend=EXACT)
        encoded = encode()

    per_shard = sequences_per_shard(config.shard_bytes, config.sequence_length, facts.token_dtype)
    shard_calls: list[Call] = []
    heldout_calls: list[Call] = []
    for source in sources:
        name = config.sources[source].name
        mine = [(part.name, done) for part, done in zip(parts, encoded, strict=True) if part.source == source]
        names = [part for part, _ in mine]
        cell_tokens = tasks.total_cell_tokens(work, names, cells[source], facts)
        spans = shard_spans(sum(cell_tokens), config.sequence_length, per_shard)
        shard_calls += [(assemble.write_shard, (name, span, cell_tokens, names, facts)) for span in spans]
        holding = [part for part, done in mine if done.heldout_documents]
        if holding:
            heldout_calls.append((assemble.write_heldout_documents, (name, holding, facts)))
    shards = stages.run("shards", ShardRecord, shard_calls, lambda shard: shard_is_there(plan.folder, shard))
    heldout = stages.run(
        "heldout", HeldoutRecord, heldout_calls, lambda one: (plan.folder / "heldout" / one.name).is_file()
    )
    return summarize(plan, facts, per_shard, tallies, [part.source for part in parts], encoded, shards, heldout)


@contextmanager
def _alone_at(scratch: Path) -> Iterator[None]:
    """Waits until no other process builds the same. The lock goes with its holder, however that ends."""
    import fcntl

    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / "lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_strangers(folder: Path, manifest: Manifest) -> None:
    """Removes what killed writers left among the corpus's files."""
    known = {name for shard in manifest.shards for name in (shard.name, sidecar_name(shard.name))}
    known |= {heldout.name for heldout in manifest.heldout}
    for sub_folder in ("shards", "heldout"):
        for path in (folder / sub_folder).glob("*"):
            if path.name not in known:
                path.unlink()
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        path.unlink()
