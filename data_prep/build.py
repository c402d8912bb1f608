"""prepare(): from a config to a corpus; the graph of its tasks is in `graph.py`.

Everything is a pure function of the config and the inputs' bytes, and every task commits by a record written last,
named by what it depends on. So a build that was killed goes on where it was, any number of workers makes the same
bytes, and a changed rule runs what depends on it and nothing else.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.config import CorpusConfig
from data_prep.crew import cannot_write, hired
from data_prep.errors import DataMistake
from data_prep.files import TEMPORARY_PREFIX
from data_prep.manifest import Manifest, cells_name, read_manifest, sidecar_name, write_manifest
from data_prep.plan import DROPPED_NAME, find_corpus, is_complete, list_all, make_plan
from data_prep.report import write_report
from data_prep.stages import Progress, Stages
from data_prep.weights import mean_weights
from data_prep.work import distrust_after_restart, remove_half_written, tidy

KEPT_STAGES = ("refine", "read", "tokenizer", "encode")
"""What of the work is worth keeping for the next build; the others take seconds."""


def prepare(
    config: CorpusConfig,
    folder_root: Path,
    name: str,
    *,
    workers: int | None = None,
    keep_dropped: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[Path, Manifest]:
    """Builds the corpus, or finds that it exists. Returns its folder, `folder_root/NAME-DIGEST`, and its manifest.

    `workers`: all cores by default, 0 is this process alone; see `crew.hired`. `keep_dropped` also writes what
    was dropped, and why, to `dropped/`. Raises DataMistake with one line on what the user can mend, DataError on what
    failed otherwise. May be called again after any end, also a kill.
    """
    folder_root = folder_root.absolute()
    folder = find_corpus(config, folder_root, name)
    if folder is not None and (not keep_dropped or (folder / DROPPED_NAME).exists()):
        return folder, read_manifest(folder)
    try:
        work = folder_root / f".work-{name}"
        work.mkdir(parents=True, exist_ok=True)
        with _alone_at(work), hired(workers) as crew:
            remove_half_written(work)
            distrust_after_restart(work)
            inputs = list_all(config)
            crew.expect(-(-inputs.text_bytes // config.unit_bytes))  # workers start while the inputs are hashed
            plan = make_plan(config, folder_root, name, inputs)
            from data_prep.graph import choose_documents, write_dropped_documents

            stages = Stages(plan, crew, progress)
            if not is_complete(plan.folder):  # who held the lock may have built it
                _build(stages, keep_dropped=keep_dropped)
            elif keep_dropped:
                write_dropped_documents(stages, choose_documents(stages))
            if not config.keep_work:
                tidy(work, set())
        return plan.folder, read_manifest(plan.folder)
    except OSError as error:
        raise DataMistake(cannot_write(error)) from error


def _build(stages: Stages, *, keep_dropped: bool) -> None:
    """Everything of the corpus, and last the manifest, without which it does not exist."""
    from data_prep.graph import build_corpus, choose_documents, write_dropped_documents

    folder, config = stages.plan.folder, stages.plan.config
    chosen = choose_documents(stages)
    manifest = build_corpus(stages, chosen)
    if keep_dropped:
        write_dropped_documents(stages, chosen)
    stages.crew.dismiss()
    weights = mean_weights([source.weight for source in config.sources])
    write_report(folder, manifest, dict(zip((source.name for source in config.sources), weights, strict=True)))
    _remove_strangers(folder, manifest)
    write_manifest(folder, manifest)
    tidy(stages.plan.work, {name for name in stages.used if name.partition("/")[0] in KEPT_STAGES})


@contextmanager
def _alone_at(work: Path) -> Iterator[None]:
    """Waits until no other process builds a corpus of this name. The lock goes with its holder, however that ends."""
    import fcntl

    with (work / "lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_strangers(folder: Path, manifest: Manifest) -> None:
    """Removes what killed writers left among the corpus's files."""
    known = {name for shard in manifest.shards for name in (shard.name, sidecar_name(shard.name))}
    known |= {heldout.name for heldout in manifest.heldout} | {cells_name(source.name) for source in manifest.sources}
    for sub_folder in ("shards", "heldout"):
        for path in (folder / sub_folder).glob("*"):
            if path.name not in known:
                path.unlink()
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        path.unlink()
