"""What became of the checkpoints that came before an alias: one event for each entry of the journal.

A rollback's entry names where the alias goes back to. Which checkpoint left it is known only from what came before.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pipeline.promote.alias import AliasState
from pipeline.promote.chain import CheckpointRef, Entry


@dataclass(frozen=True, kw_only=True)
class Event:
    kind: Literal["promote", "refuse", "rollback"]
    checkpoint: CheckpointRef
    """The one judged; in a rollback, the one that was rolled back."""
    back_to: CheckpointRef | None
    """In a rollback, where the alias points since."""
    generation: int
    """The alias's after this."""
    why: str
    """The gate's reason in one line, or a rollback's in the words of whoever asked for it, which may be none."""
    time: str
    """UTC, ISO 8601."""

    def said(self) -> str:
        """What happened to the checkpoint, in words."""
        if self.back_to is None:
            return {"promote": "promoted", "refuse": "refused"}[self.kind]
        of_run = "" if self.back_to.run == self.checkpoint.run else f" of {self.back_to.run}"
        return f"rolled back to step {self.back_to.step:,}{of_run}"


def history(entries: Iterable[Entry], alias: str) -> tuple[Event, ...]:
    """All that happened under an alias, oldest first. Raises BrokenRegistry if its entries contradict each other."""
    state, events = AliasState(name=alias), []
    for entry in entries:
        if entry.alias != alias:
            continue
        before, state = state, state.after(entry)
        rolled_back = before.champion if entry.kind == "rollback" else None
        events.append(
            Event(
                kind=entry.kind,
                checkpoint=rolled_back.checkpoint if rolled_back else entry.checkpoint,
                back_to=entry.checkpoint if rolled_back else None,
                generation=entry.generation,
                why=entry.decision.why() if entry.decision else entry.reason,
                time=entry.time,
            )
        )
    return tuple(events)
