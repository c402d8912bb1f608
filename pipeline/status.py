"""Where a run stands and what it came to, read off its files: the records behind `headrace status` and the end of
`headrace run`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.job import launcher_of, load_job
from pipeline.config import RunConfig
from pipeline.durable import remote_run
from pipeline.monitor.journal import read_journal, unbroken
from pipeline.promote.history import history
from pipeline.promote.place import folder_of
from pipeline.promote.registry import read_alias, read_entries
from pipeline.train.checkpoint import steps_saved
from pipeline.train.stored import uploaded_steps
from pipeline.workspace import Workspace

LAST_SHOWN = 5
"""Of evaluations and of checkpoints, which a long run has by the hundred. The record has all."""


def status_record(config: RunConfig, workspace: Workspace) -> dict[str, Any]:
    """The run's job, step, last figures, checkpoints, guard's warnings, scores and alias. Absent things are null. The
    workspace may be absent too."""
    run = workspace.run(config.name)
    job = load_job(run.job)
    journal = read_journal(run.metrics)
    curve = unbroken(journal)
    last = curve[-1] if curve else None
    remote = remote_run(config)
    alias = read_alias(workspace.path, config.promote.model, config.promote.alias) if config.promote else None
    return {
        "run": config.name,
        "workspace": {
            "given": config.workspace,
            "path": str(workspace.path),
            "exists": workspace.path.is_dir(),
        },
        "job": {"id": job.id, "launcher": job.launcher, "state": launcher_of(job, config.cluster).state(job)}
        if job
        else None,
        "step": last["step"] if last else 0,
        "total_steps": config.total_steps,
        "loss": last["loss"] if last else None,
        "tokens_per_s": last["tokens_per_s"] if last else None,
        "checkpoints": steps_saved(run.checkpoints),
        "stored": {"at": remote.url, "checkpoints": sorted(uploaded_steps(run, remote))} if remote else None,
        "warnings": [
            {"time": line["time"], "verdict": line.get("verdict"), "problem": line.get("problem")}
            for line in journal
            if line["kind"] == "guard"
        ],
        "evaluations": [{"step": line["step"], "scores": line["scores"]} for line in journal if line["kind"] == "eval"],
        "judged": last_judged(config, workspace),
        "alias": None
        if alias is None or config.promote is None
        else {
            "name": f"{config.promote.model}@{alias.name}",
            "run": alias.checkpoint.run,
            "step": alias.checkpoint.step,
            "checkpoint": str(folder_of(workspace.path, alias.checkpoint)),
            "digest": alias.checkpoint.digest,
            "generation": alias.generation,
        },
    }


def last_judged(config: RunConfig, workspace: Workspace) -> dict[str, Any] | None:
    """What last happened under the alias to a checkpoint of this run, by the gate or by a rollback; None if it has seen
    none."""
    if config.promote is None:
        return None
    for event in reversed(history(read_entries(workspace.path, config.promote.model), config.promote.alias)):
        if event.checkpoint.run == config.name:
            return {
                "step": event.checkpoint.step,
                "verdict": event.kind,
                "said": event.said(),
                "why": event.why,
                "time": event.time,
            }
    return None


def status_text(record: Mapping[str, Any], main_score: str) -> str:
    """The record for people, one fact a line, and the evaluations in a table."""
    job, alias = record["job"], record["alias"]
    share = 100 * record["step"] / record["total_steps"]
    lines = [
        f"run          {record['run']}",
        *missing_workspace(**record["workspace"]),
        f"job          {job['state']} ({job['launcher']} {job['id']})" if job else "job          none yet",
        f"step         {record['step']:,} of {record['total_steps']:,} ({share:.0f} %)",
    ]
    if record["loss"] is not None:
        lines.append(f"loss         {record['loss']:.4f} at {record['tokens_per_s']:,.0f} tokens/s")
    if record["checkpoints"]:
        lines.append(f"checkpoints  {steps_text(record['checkpoints'])}")
    if (stored := record["stored"]) is not None:
        steps = steps_text(stored["checkpoints"]) or "nothing yet"
        lines.append(f"stored       {steps}, from here, at {stored['at']}")
    if warnings := record["warnings"]:
        lines.append(f"warnings     {len(warnings):,}, the last: {warnings[-1]['problem']}")
    lines += evaluation_lines(record["evaluations"], main_score)
    if (judged := record["judged"]) is not None:
        why = f": {judged['why']}" if judged["why"] else ""
        lines.append(f"judged       step {judged['step']:,} {judged['said']}{why}")
    lines.append(
        f"alias        {alias['name']} -> step {alias['step']:,} of {alias['run']}, generation {alias['generation']}"
        if alias
        else "alias        nothing promoted yet"
    )
    return "\n".join(lines)


def missing_workspace(given: str, path: str, *, exists: bool) -> list[str]:
    """A line if the folder is not there: the run has not begun, or one looks from another folder or machine."""
    if exists:
        return []
    taken = "" if Path(given).is_absolute() else f"; {given} is taken from the folder that you are in"
    return [f"workspace    {path} does not exist{taken}"]


def steps_text(steps: Sequence[int]) -> str:
    """The last few, and how many there are if those are not all."""
    named = ", ".join(f"step {step:,}" for step in steps[-LAST_SHOWN:])
    return named if len(steps) <= LAST_SHOWN else f"{len(steps):,}, the last {LAST_SHOWN}: {named}"


def evaluation_lines(evaluations: Sequence[Mapping[str, Any]], measure: str) -> list[str]:
    """How many checkpoints have this score, which is the best, and the last few. A step that was evaluated again, as
    after a rollback, counts once. Of all measures the lowest is the best: they are bits per byte.

        evaluated    212 checkpoints, heldout/bits_per_byte; best 1.2034 ± 0.0021 at step 41,000
                       step 40,500  1.2040 ± 0.0021
                       step 41,000  1.2034 ± 0.0021  best
    """
    scores = {one["step"]: score for one in evaluations if (score := one["scores"].get(measure))}
    finite = {step: score for step, score in scores.items() if score["value"] is not None}
    if not scores:
        return []
    count = f"{len(scores):,} checkpoint{'s' if len(scores) > 1 else ''}, {measure}"
    if not finite:
        return [f"evaluated    {count}: not finite"]
    best = min(sorted(finite), key=lambda step: finite[step]["value"])
    if len(scores) == 1:
        return [f"evaluated    {count}: {_score_text(finite[best])} at step {best:,}"]
    shown = sorted(scores)[-LAST_SHOWN:]
    width = len(f"{shown[-1]:,}")
    return [
        f"evaluated    {count}; best {_score_text(finite[best])} at step {best:,}",
        *(
            f"               step {step:>{width},}  {_score_text(scores[step])}" + "  best" * (step == best)
            for step in shown
        ),
    ]


def _score_text(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return "not finite"
    error = "" if score["standard_error"] is None else f" ± {score['standard_error']:.4f}"
    return f"{score['value']:.4f}{error}"
