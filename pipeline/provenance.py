"""`trace` and `where`: the documents behind a step of a run, and the steps that saw a document."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.manifest import Manifest
from pipeline.columns import table
from pipeline.config import RunConfig
from pipeline.data.order import Order, order_of_config
from pipeline.data.trace import (
    Visit,
    documents_of_step,
    find_document,
    first_ids,
    is_held_out,
    steps_of_document,
)
from pipeline.errors import Mistake, PipelineError
from pipeline.monitor.journal import read_from, read_journal, unbroken
from pipeline.runs import begin
from pipeline.train.guard import read_guard
from pipeline.workspace import Workspace

TAIL_BYTES = 1_000_000
"""Some thousand lines of a journal: how far from its end the last step is looked for at first."""


@dataclass(frozen=True, kw_only=True)
class StepTrace:
    run: str
    step: int
    batch_digest: str
    trained: bool
    """Whether the journal holds the step; if it does, its batch digest is this one."""
    visits: tuple[Visit, ...]


@dataclass(frozen=True, kw_only=True)
class Whereabouts:
    run: str
    id: str
    until_step: int
    sources: tuple[str, ...]
    """Those that hold the document."""
    held_out: tuple[str, ...]
    """Those that kept it from training."""
    visits: tuple[Visit, ...]


def trace_step(config: RunConfig, workspace: Workspace, step: int) -> StepTrace:
    """The documents of a step, done or to come. Raises Mistake for a step outside the run, PipelineError if the journal
    says that the step saw other data."""
    if not 1 <= step <= config.total_steps:
        raise Mistake(f"--step {step}: run {config.name} has the steps 1 to {config.total_steps}")
    corpus, manifest, order = order_of_run(config, workspace)
    batch_digest = order.batch_digest(config.batches.positions(step - 1))
    line = next((x for x in unbroken(read_journal(workspace.run(config.name).metrics)) if x["step"] == step), None)
    if line is not None and line.get("batch_digest") not in (None, batch_digest):
        raise PipelineError(
            f"the journal of run {config.name} says that step {step} saw the batch {line['batch_digest']}, "
            f"but config and corpus give {batch_digest}"
        )
    visits = documents_of_step(corpus, manifest, order, config.batches, step)
    return StepTrace(run=config.name, step=step, batch_digest=batch_digest, trained=line is not None, visits=visits)


def where_document(
    config: RunConfig, workspace: Workspace, document_id: str, source: str | None, until_step: int | None
) -> Whereabouts:
    """The steps that saw a document so far, or that will have by `until_step`. Raises Mistake if no source has it."""
    corpus, manifest, order = order_of_run(config, workspace)
    names = [one.name for one in manifest.sources]
    if source is not None and source not in names:
        raise Mistake(f"--source {source}: run {config.name} has the sources {', '.join(names)}")
    done = until_step if until_step is not None else steps_done(workspace.run(config.name).metrics)
    asked = [source] if source is not None else names
    found = {
        name: steps_of_document(corpus, manifest, order, config.batches, name, document_id, done) for name in asked
    }
    held_out = tuple(name for name in asked if found[name] is None and is_held_out(corpus, manifest, name, document_id))
    holding = {name: visits for name, visits in found.items() if visits is not None}
    if not holding and not held_out:
        meant = with_ending(corpus, manifest, asked, document_id)
        likely = "it was dropped while the corpus was built, or the id is spelled otherwise"
        raise Mistake(
            f"--id {document_id}: no such document in {', '.join(asked)} of {corpus.name}; "
            + (f"there is {', '.join(meant)}" if meant else likely)
        )
    visits = sorted((visit for some in holding.values() for visit in some), key=lambda visit: visit.position)
    return Whereabouts(
        run=config.name,
        id=document_id,
        until_step=done,
        sources=tuple(holding),
        held_out=held_out,
        visits=tuple(visits),
    )


def with_ending(corpus: Path, manifest: Manifest, sources: Sequence[str], document_id: str) -> list[str]:
    """Documents whose ids are this one and an ending, as `os.txt` is for `os`, where files were read whole. Endings are
    those of the documents with which a source's first shard begins: the rest is not searched."""
    found = set()
    for source in sources:
        for ending in {PurePosixPath(name).suffix for name in first_ids(corpus, manifest, source)} - {""}:
            name = document_id + ending
            if find_document(corpus, manifest, source, name) or is_held_out(corpus, manifest, source, name):
                found.add(name)
    return sorted(found)


def order_of_run(config: RunConfig, workspace: Workspace) -> tuple[Path, Manifest, Order]:
    """The corpus that a run is pinned to, or would be, and the order in which it trains on it, without what the run's
    guard has left out."""
    corpus, manifest = begin(config, workspace, write=False)
    return corpus, manifest, order_of_config(config, manifest, read_guard(workspace.run(config.name).guard).skipped)


def steps_done(journal: Path) -> int:
    """The last step that led to the present weights; only the journal's end is read, if it tells."""
    size = journal.stat().st_size if journal.exists() else 0
    for offset in (max(0, size - TAIL_BYTES), 0):  # a line that the offset cuts is passed over as torn
        lines, _ = read_from(journal, offset)
        for line in reversed(lines):
            if line["kind"] in ("step", "resume") and isinstance(line.get("step"), int):
                return int(line["step"])
    return 0


def visit_record(visit: Visit) -> dict[str, Any]:
    """One flat row, for `--json`."""
    return {"step": visit.step, "position": visit.position, "epoch": visit.epoch, **vars(visit.part)}


def trace_text(trace: StepTrace) -> str:
    when = "" if trace.trained else ", not trained yet"
    sequences = len({visit.position for visit in trace.visits})
    head = f"step {trace.step} of {trace.run}{when}: {len(trace.visits)} documents in {sequences} sequences"
    rows = [_row(visit, visit.position) for visit in trace.visits]
    return "\n".join([f"{head}, batch {trace.batch_digest}", *table(("position", *COLUMNS), rows)])


def where_text(found: Whereabouts) -> str:
    if not found.sources:
        return f"{found.id} is held out in {', '.join(found.held_out)}: no step trains on it"
    steps = len({visit.step for visit in found.visits})
    head = f"{found.id} of {', '.join(found.sources)}: seen by {steps} of the steps up to {found.until_step}"
    rows = [_row(visit, visit.step) for visit in found.visits]
    return "\n".join([head, *(table(("step", *COLUMNS), rows) if rows else [])])


COLUMNS = ("epoch", "source", "shard", "row", "first", "tokens", "id")


def _row(visit: Visit, at: int) -> tuple[str, ...]:
    part = visit.part
    figures = (at, visit.epoch, part.source, part.shard, part.row, part.first_token, part.num_tokens, part.id)
    return tuple(map(str, figures))
