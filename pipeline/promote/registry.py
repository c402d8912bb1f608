"""The registry of promoted models: WORKSPACE/registry/MODEL/.

    journal.jsonl          promote | refuse | rollback, hash-chained: the truth          chain.py
    aliases/NAME.json      where each alias points: follows from the journal             alias.py
    reports/DIGEST.json    the evidence of each promotion, so that a proof outlives the run it came from

    promote:  read ─> check the checkpoint ─> decide ─> [ lock: still as read? ─> append to journal ─> move alias ]

Deciding takes its time and holds no lock. At the end the lock is held for a moment: if the alias's entries are no
longer what was read, nothing is written and `AliasMoved` says so. A crash between the two last steps leaves an alias
file that lags behind its journal; the next to take the lock brings it up to date.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import CorruptCheckpoint, GateRefused, Mistake, PipelineError
from pipeline.evaluate.report import EvalReport
from pipeline.promote.alias import PROMOTIONS_KEPT, Alias, AliasState, decided, replay
from pipeline.promote.chain import JOURNAL_NAME, CheckpointRef, Entry, append, read_chain, sealed
from pipeline.promote.config import PromoteConfig, is_name
from pipeline.promote.gate import decide
from pipeline.promote.place import folder_of
from pipeline.promote.store import load_report, opened, store_report, write_alias

CheckCheckpoint = Callable[[Path], str]
"""Verifies every file of a checkpoint and returns its digest; raises CorruptCheckpoint."""


class AliasMoved(PipelineError):
    """Somebody else wrote to this alias while we were deciding. Nothing was written; try again."""


def registry_folder(workspace: Path, model: str) -> Path:
    """Raises Mistake if the model's name could not be a folder's."""
    return workspace / "registry" / _checked(model, "model")


def known_model(workspace: Path, model: str) -> Path:
    """The folder of a model that has a registry. Raises Mistake, naming those that have one."""
    folder = registry_folder(workspace, model)
    if not (folder / JOURNAL_NAME).exists():
        known = ", ".join(path.parent.name for path in sorted(workspace.glob(f"registry/*/{JOURNAL_NAME}")))
        raise Mistake(
            f"{workspace} has no promoted model {model}; "
            + (f"it has {known}" if known else "train and promote one first: headrace run CONFIG")
        )
    return folder


def read_entries(workspace: Path, model: str) -> tuple[Entry, ...]:
    """The whole journal, oldest first, its chain checked; empty if nothing was ever judged."""
    return read_chain(registry_folder(workspace, model))


def read_alias(workspace: Path, model: str, alias: str) -> Alias | None:
    """Where an alias points, by the journal; None if nothing was promoted to it."""
    return replay(read_entries(workspace, model), _checked(alias, "alias")).alias()


def champion_report(workspace: Path, model: str, alias: str) -> EvalReport | None:
    """The report with which the alias's present checkpoint was promoted."""
    champion = replay(read_entries(workspace, model), _checked(alias, "alias")).champion
    return load_report(registry_folder(workspace, model), _evidence(champion)) if champion else None


def promote(
    workspace: Path,
    config: PromoteConfig,
    candidate: EvalReport,
    checkpoint: Path,
    *,
    check_checkpoint: CheckCheckpoint,
    champion: EvalReport | None = None,
    even_if_withdrawn: bool = False,
) -> Entry:
    """Judges a candidate, writes the decision to the journal, and moves the alias if the verdict is "promote".

    `checkpoint` is the candidate's folder, inside the workspace. `champion` is a newer report of the champion's
    checkpoint, for when the data or the scorer changed since it was promoted; without one the stored report is used.

    Returns the new entry, of kind "promote" or "refuse". What was decided before is not decided again: the champion
    itself, or a candidate already refused against the same report under the same config, returns its old entry and
    writes nothing.

    Raises CorruptCheckpoint if the checkpoint is not the one evaluated, AliasMoved if another process wrote to the
    alias meanwhile, GateRefused for a checkpoint that was rolled back (unless `even_if_withdrawn`), Mistake for bad
    names or a path outside the workspace, and BrokenRegistry.
    """
    assert candidate.digest, "seal the report first"
    folder = registry_folder(workspace, config.model)
    path = _relative(workspace, checkpoint)
    with opened(folder) as entries:
        state = replay(entries, _checked(config.alias, "alias"))
    current = state.champion
    if current is not None:
        if current.checkpoint.digest == candidate.checkpoint_digest:
            return current
        champion = _champion(folder, current, champion)
    elif champion is not None:
        raise Mistake(f"{config.model}@{config.alias} has no champion yet, so none can be re-evaluated")
    known = decided(entries, config.alias, candidate.digest)
    if known is not None and known.kind == "refuse" and _same_question(known, champion, config):
        return known
    if candidate.checkpoint_digest in state.withdrawn and not even_if_withdrawn:
        raise GateRefused(
            f"step {candidate.step} of {candidate.run} was rolled back from {config.model}@{config.alias}; "
            "promote another checkpoint"
        )
    _check(check_checkpoint, workspace / path, candidate.checkpoint_digest)
    looks = state.looks_at(champion.checkpoint_digest) if champion else 0
    decision = decide(candidate, champion, config.gate, looks)
    if decision.verdict == "promote":
        for report in (candidate, champion):
            if report is not None:
                store_report(folder, report)
    reference = CheckpointRef(digest=candidate.checkpoint_digest, path=path, run=candidate.run, step=candidate.step)
    entry = Entry(
        kind=decision.verdict,
        alias=config.alias,
        generation=state.generation + (decision.verdict == "promote"),
        checkpoint=reference,
        decision=decision,
        reason="",
        time=_now(),
        previous="",
    )
    return _commit(folder, config.model, state, entry)


def rollback(workspace: Path, model: str, alias: str, *, check_checkpoint: CheckCheckpoint, reason: str = "") -> Entry:
    """Moves an alias back to the checkpoint promoted before the present one, by a new entry; returns it.

    Raises Mistake if there is none or if its folder is gone, CorruptCheckpoint if its files are damaged, AliasMoved,
    BrokenRegistry.
    """
    folder = known_model(workspace, model)
    with opened(folder) as entries:
        state = replay(entries, _checked(alias, "alias"))
    if len(state.promotions) < 2:
        raise Mistake(
            f"{model}@{alias} has nothing to go back to: promotions that were not rolled back: {len(state.promotions)}"
        )
    target, present = state.promotions[-2].checkpoint, state.promotions[-1].checkpoint
    where = folder_of(workspace, target)
    if not where.is_dir():
        raise Mistake(
            f"step {target.step} of {target.run} is no longer kept, so {model}@{alias} stays at step {present.step} of "
            f"{present.run}: retention keeps an alias's checkpoint and the {PROMOTIONS_KEPT - 1} promoted before it; "
            f"put {workspace / target.path} back from a copy, or promote a better one: headrace promote CONFIG --step N"
        )
    _check(check_checkpoint, where, target.digest)
    entry = Entry(
        kind="rollback",
        alias=alias,
        generation=state.generation + 1,
        checkpoint=target,
        decision=None,
        reason=reason,
        time=_now(),
        previous="",
    )
    return _commit(folder, model, state, entry)


def _commit(folder: Path, model: str, read: AliasState, entry: Entry) -> Entry:
    """Compare-and-swap: appends the entry and moves the alias, if the alias's last entry is still the one read."""
    with opened(folder) as entries:
        now = replay(entries, entry.alias)
        if now.last != read.last:
            assert now.last is not None
            raise AliasMoved(
                f"{model}@{entry.alias} got another entry ({now.last.kind}, step {now.last.checkpoint.step} of "
                f"{now.last.checkpoint.run}, generation {now.generation}) while this one was being decided; "
                "nothing was written, try again"
            )
        entry = sealed(replace(entry, previous=entries[-1].digest if entries else ""))
        moved = now.after(entry)
        append(folder, entry)
        write_alias(folder, moved)
    return entry


def _champion(folder: Path, current: Entry, newer: EvalReport | None) -> EvalReport:
    if newer is None:
        return load_report(folder, _evidence(current))
    if newer.checkpoint_digest != current.checkpoint.digest:
        raise Mistake(
            f"the champion's report is of checkpoint {newer.checkpoint_digest[:12]}, but the alias points to "
            f"{current.checkpoint.path} ({current.checkpoint.digest[:12]})"
        )
    return newer


def _evidence(promotion: Entry) -> str:
    assert promotion.decision is not None, "replay checked it"
    return promotion.decision.candidate


def _same_question(known: Entry, champion: EvalReport | None, config: PromoteConfig) -> bool:
    against = champion.digest if champion else None
    return known.decision is not None and (known.decision.champion, known.decision.config) == (against, config.gate)


def _check(check_checkpoint: CheckCheckpoint, path: Path, expected: str) -> None:
    if not path.is_dir():
        raise CorruptCheckpoint(f"{path} is gone")
    found = check_checkpoint(path)
    if found != expected:
        raise CorruptCheckpoint(f"{path} has digest {found[:12]}, but {expected[:12]} was evaluated")


def _relative(workspace: Path, checkpoint: Path) -> str:
    """The checkpoint's path inside the workspace; a relative one is taken as relative to it."""
    root = workspace.resolve()
    path = (root / checkpoint).resolve() if not checkpoint.is_absolute() else checkpoint.resolve()
    if not path.is_relative_to(root) or path == root:
        raise Mistake(f"checkpoint {checkpoint} is not inside the workspace {workspace}")
    return path.relative_to(root).as_posix()


def _checked(name: str, kind: str) -> str:
    if not is_name(name):
        raise Mistake(f"{name!r} is no {kind}'s name; use letters, digits, '.', '_' and '-', and begin with no '.'")
    return name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
