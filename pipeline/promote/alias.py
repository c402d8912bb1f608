"""What an alias points to, as a pure function of the journal.

A promotion pushes a checkpoint, a rollback goes back to the one below it: an alias is the top of a stack. Its file,
`aliases/NAME.json`, is only a convenience for those who look; the journal is what counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.promote.chain import BrokenRegistry, CheckpointRef, Entry

PROMOTIONS_KEPT = 3
"""Of each alias, how many of its latest promotions in force keep their checkpoints: the present one's, and those that
two rollbacks in a row go back to. Each costs a checkpoint's room in every tier for as long as it counts."""


@dataclass(frozen=True, kw_only=True)
class Alias:
    name: str
    checkpoint: CheckpointRef
    generation: int
    """Grows by one each time the alias moves."""
    journal_entry: str
    """Digest of the entry that moved it here."""


@dataclass(frozen=True, kw_only=True)
class AliasState:
    """All that an alias's entries add up to."""

    name: str
    promotions: tuple[Entry, ...] = ()
    """The promotions in force, oldest first; the last is the champion's."""
    withdrawn: frozenset[str] = frozenset()
    """Digests of checkpoints that were rolled back."""
    generation: int = 0
    looks: dict[str, int] = field(default_factory=dict)
    """Champion's checkpoint digest -> candidates that were judged against it."""
    moved_by: Entry | None = None
    last: Entry | None = None

    @property
    def champion(self) -> Entry | None:
        return self.promotions[-1] if self.promotions else None

    def alias(self) -> Alias | None:
        """The pointer, or None if nothing was ever promoted."""
        if self.moved_by is None:
            return None
        return Alias(
            name=self.name,
            checkpoint=self.moved_by.checkpoint,
            generation=self.generation,
            journal_entry=self.moved_by.digest,
        )

    def looks_at(self, champion_checkpoint: str) -> int:
        """Counted by checkpoint: going back to an earlier champion does not forget who was judged against it."""
        return self.looks.get(champion_checkpoint, 0)

    def after(self, entry: Entry) -> "AliasState":
        """The state with one more entry of this alias. Raises BrokenRegistry if it cannot follow."""
        moves = entry.kind != "refuse"
        if entry.generation != self.generation + moves:
            raise BrokenRegistry(f"{_place(entry)} has generation {entry.generation} after {self.generation}")
        state = replace(self, last=entry, generation=entry.generation, moved_by=entry if moves else self.moved_by)
        return state._rolled_back(entry) if entry.kind == "rollback" else state._judged(entry)

    def _judged(self, entry: Entry) -> "AliasState":
        decision = entry.decision
        if decision is None or decision.verdict != entry.kind:
            raise BrokenRegistry(f"{_place(entry)} is a {entry.kind} without a decision that says so")
        if decision.candidate_checkpoint != entry.checkpoint.digest:
            raise BrokenRegistry(f"{_place(entry)} is a decision on another checkpoint than it names")
        champion = self.champion.checkpoint.digest if self.champion else None
        if decision.champion_checkpoint != champion:
            raise BrokenRegistry(f"{_place(entry)} was judged against a checkpoint that was not the champion")
        looks = dict(self.looks)
        if champion is not None:
            looks[champion] = self.looks_at(champion) + 1
        if entry.kind == "refuse":
            return replace(self, looks=looks)
        return replace(
            self,
            looks=looks,
            promotions=(*self.promotions, entry),
            withdrawn=self.withdrawn - {entry.checkpoint.digest},
        )

    def _rolled_back(self, entry: Entry) -> "AliasState":
        if len(self.promotions) < 2 or self.promotions[-2].checkpoint != entry.checkpoint:
            raise BrokenRegistry(f"{_place(entry)} rolls back to a checkpoint that was not promoted before")
        withdrawn = self.withdrawn | {self.promotions[-1].checkpoint.digest}
        return replace(self, promotions=self.promotions[:-1], withdrawn=withdrawn)


def _place(entry: Entry) -> str:
    return f"entry {entry.digest[:12]} of alias {entry.alias}"


def replay(entries: Iterable[Entry], name: str) -> AliasState:
    """What the journal says of one alias. Raises BrokenRegistry if its entries contradict each other."""
    state = AliasState(name=name)
    for entry in entries:
        if entry.alias == name:
            state = state.after(entry)
    return state


def alias_names(entries: Iterable[Entry]) -> tuple[str, ...]:
    return tuple(sorted({entry.alias for entry in entries}))


def decided(entries: Iterable[Entry], alias: str, report: str) -> Entry | None:
    """The last entry on an alias in which a report, given by its digest, was the candidate's."""
    found = [e for e in entries if e.alias == alias and e.decision is not None and e.decision.candidate == report]
    return found[-1] if found else None


def protected_paths(entries: Sequence[Entry], last_promotions: int = PROMOTIONS_KEPT) -> frozenset[str]:
    """Paths of checkpoints that retention must keep: what each alias points to and may need for its next rollbacks.

    After a rollback one promoted earlier counts again, but it may have gone by then.
    """
    kept = [entry for name in alias_names(entries) for entry in replay(entries, name).promotions[-last_promotions:]]
    return frozenset(entry.checkpoint.path for entry in kept)
