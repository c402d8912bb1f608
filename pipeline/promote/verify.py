"""Replays the proof of an alias, offline: from the registry's files and the checkpoints alone.

Every promotion is judged again from the stored reports; the run folders may be gone.
"""

from pathlib import Path

from data_prep.files import canonical_json
from pipeline.errors import CorruptCheckpoint, Mistake
from pipeline.promote.alias import AliasState, replay
from pipeline.promote.chain import BrokenRegistry, Entry, read_chain
from pipeline.promote.decision import GATE_VERSION
from pipeline.promote.gate import decide
from pipeline.promote.place import folder_of, recorded_digest
from pipeline.promote.registry import CheckCheckpoint, known_model
from pipeline.promote.store import load_report, opened, stored_alias


def verify(workspace: Path, model: str, alias: str, check_checkpoint: CheckCheckpoint) -> list[str]:
    """Checks all that an alias stands on; returns what was checked, one line each.

    The journal's chain, each promotion's decision, the alias file, and the digests of the promoted checkpoints that are
    still there. Raises BrokenRegistry or CorruptCheckpoint at the first thing that does not hold, and Mistake if the
    model or the alias does not exist.
    """
    folder = known_model(workspace, model)
    entries = read_chain(folder)
    facts = [f"journal of {model}: {_counted(entries)}, each follows from the one before"]
    state = AliasState(name=alias)
    for entry in entries:
        if entry.alias == alias:
            if entry.kind == "promote":
                facts.append(_replayed(folder, state, entry))
            state = state.after(entry)
    facts += _alias_holds(folder, alias, entries)
    return facts + _checkpoints_hold(workspace, state, entries, check_checkpoint)


def _counted(entries: tuple[Entry, ...]) -> str:
    """`4 entries (2 promotions, 1 refusal, 1 rollback)`: of all the model's aliases, as the chain is one."""
    names = {"promote": "promotion", "refuse": "refusal", "rollback": "rollback"}
    found = {name: sum(entry.kind == kind for entry in entries) for kind, name in names.items()}
    kinds = ", ".join(f"{count:,} {name}{'s' * (count != 1)}" for name, count in found.items())
    return f"{len(entries):,} entr{'y' if len(entries) == 1 else 'ies'} ({kinds})"


def _replayed(folder: Path, before: AliasState, entry: Entry) -> str:
    recorded = entry.decision
    where = f"promotion of step {entry.checkpoint.step} of {entry.checkpoint.run} (entry {entry.digest[:12]})"
    if recorded is None:
        raise BrokenRegistry(f"{where} has no decision")
    candidate = load_report(folder, recorded.candidate)
    champion = load_report(folder, recorded.champion) if recorded.champion is not None else None
    if (candidate.run, candidate.step) != (entry.checkpoint.run, entry.checkpoint.step):
        raise BrokenRegistry(f"{where} stands on a report of step {candidate.step} of {candidate.run}")
    if recorded.gate_version != GATE_VERSION:
        return f"{where}: reports hold; decided by gate version {recorded.gate_version}, which is not replayed here"
    looks = before.looks_at(champion.checkpoint_digest) if champion is not None else 0
    again = decide(candidate, champion, recorded.config, looks)
    if canonical_json(again) != canonical_json(recorded):
        raise BrokenRegistry(f"{where}: its reports give another decision than the recorded one: {again.why()}")
    return f"{where}: decided again from its reports: {recorded.why()}"


def _alias_holds(folder: Path, name: str, entries: tuple[Entry, ...]) -> list[str]:
    alias = replay(entries, name).alias()
    if alias is None:
        raise Mistake(f"{folder.name}@{name} was never promoted")
    facts = []
    if stored_alias(folder, name, entries) != alias:
        # After a crash between journal and alias; or somebody promotes at this moment, then the lock waits for them.
        with opened(folder) as entries:
            alias = replay(entries, name).alias()
        assert alias is not None
        facts.append(f"alias {name} lagged behind the journal after a crash; it was brought up to date")
    where = f"step {alias.checkpoint.step} of {alias.checkpoint.run}, generation {alias.generation}"
    return [*facts, f"alias {name}: {where}, is the journal's last word"]


def _checkpoints_hold(
    workspace: Path, state: AliasState, entries: tuple[Entry, ...], check_checkpoint: CheckCheckpoint
) -> list[str]:
    assert state.champion is not None, "the alias exists"
    current = state.champion.checkpoint
    promoted = {e.checkpoint.digest: e.checkpoint for e in entries if e.alias == state.name and e.kind == "promote"}
    facts = []
    for checkpoint in (*(c for c in promoted.values() if c.digest != current.digest), current):
        folder = folder_of(workspace, checkpoint)
        another = recorded_digest(folder) not in (None, checkpoint.digest)  # its step was saved anew
        if checkpoint != current and (another or not folder.exists()):
            gone = "another is there now" if another else "deleted since"
            facts.append(f"checkpoint {checkpoint.path} ({checkpoint.digest[:12]}): {gone}; its proof is kept")
            continue
        if not folder.is_dir():
            raise CorruptCheckpoint(f"{folder}, to which alias {state.name} points, is gone")
        found = check_checkpoint(folder)
        if found != checkpoint.digest:
            raise CorruptCheckpoint(f"{folder} has digest {found[:12]}, but {checkpoint.digest[:12]} was promoted")
        facts.append(f"checkpoint {folder.relative_to(workspace)}: every file matches digest {checkpoint.digest[:12]}")
    return facts
