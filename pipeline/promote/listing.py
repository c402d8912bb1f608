"""`headrace registry`: every alias of every model, where it points, and what brought it there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.columns import table
from pipeline.promote.alias import Alias, alias_names, replay
from pipeline.promote.chain import read_chain
from pipeline.promote.history import Event, history

LAST_SHOWN = 10
"""Of an alias's events, which a long run has by the hundred. The record has all."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    model: str
    name: str
    """The alias's."""
    alias: Alias | None
    """None if all that came before it was refused."""
    promoted_at: str | None
    """When the alias moved to where it points: UTC, ISO 8601."""
    history: tuple[Event, ...]
    """Oldest first."""


def list_aliases(workspace: Path) -> tuple[Listing, ...]:
    """Every alias of every model, sorted by name."""
    found = []
    for folder in sorted((workspace / "registry").glob("*/")):
        entries = read_chain(folder)
        for name in alias_names(entries):
            state = replay(entries, name)
            found.append(
                Listing(
                    model=folder.name,
                    name=name,
                    alias=state.alias(),
                    promoted_at=state.moved_by.time if state.moved_by else None,
                    history=history(entries, name),
                )
            )
    return tuple(found)


def listing_text(found: Sequence[Listing]) -> str:
    """An alias, and below it a line for each of its last events, the newest last:

    tiny@production  step 100 of first, generation 3, since 2026-05-02T10:12:44+00:00
      time                       step  run    what                     why
      2026-05-02T09:59:01+00:00   100  first  promoted                 heldout/bits_per_byte 2.0642; ...
      2026-05-02T10:03:10+00:00   300  first  promoted                 better: ...
      2026-05-02T10:12:44+00:00   300  first  rolled back to step 100  it swears
    """
    return "\n\n".join("\n".join(_lines(item)) for item in found) or "nothing is promoted yet"


def _lines(item: Listing) -> list[str]:
    where = "nothing promoted yet"
    if item.alias is not None:
        checkpoint = item.alias.checkpoint
        where = f"step {checkpoint.step} of {checkpoint.run}, generation {item.alias.generation}"
        where += f", since {item.promoted_at}"
    shown = item.history[-LAST_SHOWN:]
    rows = [(event.time, str(event.checkpoint.step), event.checkpoint.run, event.said(), event.why) for event in shown]
    more = [f"  the last {LAST_SHOWN} of {len(item.history):,} entries:"] if len(item.history) > LAST_SHOWN else []
    lines = table(("time", "step", "run", "what", "why"), rows)
    return [f"{item.model}@{item.name}  {where}", *more, *(f"  {line}".rstrip() for line in lines)]
