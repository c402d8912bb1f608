"""What a finished run came to, gathered from its records for `pipeline.monitor.summary` to draw."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.files import plain
from data_prep.manifest import read_manifest_record
from pipeline.config import RunConfig
from pipeline.monitor.console import duration
from pipeline.monitor.journal import Line, read_journal, unbroken
from pipeline.monitor.summary import Measured, Promoted, Summary
from pipeline.promote.place import folder_of
from pipeline.promote.registry import read_alias, read_entries
from pipeline.runs import read_state
from pipeline.sample import sample_text
from pipeline.workspace import Workspace

SAMPLE_TOKENS = 80


def overview(config: RunConfig, workspace: Workspace, program: str, words: Sequence[str]) -> Summary:
    """The summary of a run that is done. `program` and `words` make the commands that it proposes."""
    run = workspace.run(config.name)
    journal = read_journal(run.metrics)
    curve = unbroken(journal)
    measured = scores(journal, "heldout/bits_per_byte")
    given = " ".join(words)
    return Summary(
        run=config.name,
        headline=headline(journal, curve),
        sources=corpus_rows(config, workspace),
        losses=[(line["step"], line["loss"]) for line in curve if line["loss"] is not None],
        before=measured[0] if len(measured) > 1 else None,
        after=measured[-1] if measured else None,
        promoted=promoted(config, workspace),
        sample=sample_text(
            config, workspace, prompt="", max_tokens=SAMPLE_TOKENS, temperature=0.8, seed=0, step=None
        ).text.strip(),
        next_commands=(
            (f"{program} sample {given} --prompt 'import '", "let the promoted model write on"),
            (f"{program} verify {given}", "replay the proof behind the promotion, offline"),
            (f"{program} status {given}", "see where the run stands, whenever"),
        ),
    )


def headline(journal: Sequence[Line], curve: Sequence[Line]) -> str:
    """`240 steps, 983,040 tokens, in 3:12`: the time between the first line and the end of training."""
    if not curve:
        return ""
    took = duration(curve[-1]["time"] - journal[0]["time"])
    return f"{curve[-1]['step']:,} steps, {curve[-1]['tokens']:,} tokens, in {took}"


def scores(journal: Sequence[Line], name: str) -> list[Measured]:
    """A score at each evaluated step, by step."""
    found = {}
    for line in journal:
        if line["kind"] == "eval" and (score := line["scores"].get(name)) and score["value"] is not None:
            found[line["step"]] = Measured(
                step=line["step"], value=score["value"], standard_error=score["standard_error"]
            )
    return [found[step] for step in sorted(found)]


def corpus_rows(config: RunConfig, workspace: Workspace) -> list[dict[str, Any]]:
    """A row a source of the corpus that the run is pinned to, with what was dropped by reason."""
    state = read_state(workspace.run(config.name))
    if state is None:
        return []
    return [
        {
            "source": source.name,
            "read": source.documents_read,
            "dropped": plain(source.dropped),
            "heldout": source.documents_heldout,
            "kept": source.documents_kept,
            "tokens": source.num_tokens,
        }
        for source in read_manifest_record(workspace.corpora / state.corpus).sources
    ]


def promoted(config: RunConfig, workspace: Workspace) -> Promoted | None:
    """Where the run's alias points, and the decision that moved it there."""
    if config.promote is None:
        return None
    alias = read_alias(workspace.path, config.promote.model, config.promote.alias)
    if alias is None:
        return None
    moved = [
        entry for entry in read_entries(workspace.path, config.promote.model) if entry.digest == alias.journal_entry
    ]
    return Promoted(
        alias=f"{config.promote.model}@{alias.name}",
        step=alias.checkpoint.step,
        checkpoint=from_here(folder_of(workspace.path, alias.checkpoint)),
        digest=alias.checkpoint.digest,
        generation=alias.generation,
        run=None if alias.checkpoint.run == config.name else alias.checkpoint.run,
        why=moved[0].decision.why() if moved and moved[0].decision else "",
    )


def from_here(path: Path) -> str:
    """The path as one would type it: relative to the current folder if it lies inside."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
