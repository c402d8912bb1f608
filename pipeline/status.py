"""Where a run stands and what it came to, read off its files: the records behind `headrace status` and the end of
`headrace run`."""

from typing import Any

from cluster.job import launcher_of, load_job
from pipeline.config import RunConfig
from pipeline.durable import remote_run
from pipeline.monitor.journal import read_journal, unbroken
from pipeline.promote.registry import read_alias
from pipeline.train.checkpoint import steps_saved
from pipeline.train.stored import uploaded_steps
from pipeline.workspace import Workspace


def status_record(config: RunConfig, workspace: Workspace) -> dict[str, Any]:
    """The run's job, step, last figures, checkpoints, scores and alias. Absent things are null."""
    run = workspace.run(config.name)
    job = load_job(run.job)
    journal = read_journal(run.metrics)
    curve = unbroken(journal)
    last = curve[-1] if curve else None
    remote = remote_run(config)
    alias = read_alias(workspace.path, config.promote.model, config.promote.alias) if config.promote else None
    return {
        "run": config.name,
        "job": {"id": job.id, "launcher": job.launcher, "state": launcher_of(job, config.cluster).state(job)}
        if job
        else None,
        "step": last["step"] if last else 0,
        "total_steps": config.total_steps,
        "loss": last["loss"] if last else None,
        "tokens_per_s": last["tokens_per_s"] if last else None,
        "checkpoints": steps_saved(run.checkpoints),
        "stored": {"at": remote.url, "checkpoints": sorted(uploaded_steps(run, remote))} if remote else None,
        "evaluations": [{"step": line["step"], "scores": line["scores"]} for line in journal if line["kind"] == "eval"],
        "alias": None
        if alias is None or config.promote is None
        else {
            "name": f"{config.promote.model}@{alias.name}",
            "run": alias.checkpoint.run,
            "step": alias.checkpoint.step,
            "checkpoint": str(workspace.path / alias.checkpoint.path),
            "digest": alias.checkpoint.digest,
            "generation": alias.generation,
        },
    }


def status_text(record: dict[str, Any], main_score: str) -> str:
    """The record for people, one fact a line."""
    job, alias = record["job"], record["alias"]
    share = 100 * record["step"] / record["total_steps"]
    lines = [
        f"run          {record['run']}",
        f"job          {job['state']} ({job['launcher']} {job['id']})" if job else "job          none yet",
        f"step         {record['step']:,} of {record['total_steps']:,} ({share:.0f} %)",
    ]
    if record["loss"] is not None:
        lines.append(f"loss         {record['loss']:.4f} at {record['tokens_per_s']:,.0f} tokens/s")
    if record["checkpoints"]:
        lines.append(f"checkpoints  {', '.join(f'step {step:,}' for step in record['checkpoints'])}")
    if (stored := record["stored"]) is not None:
        steps = ", ".join(f"step {step:,}" for step in stored["checkpoints"]) or "nothing yet"
        lines.append(f"stored       {steps}, from here, at {stored['at']}")
    for evaluation in record["evaluations"]:
        score = evaluation["scores"].get(main_score)
        if score and score["value"] is not None:
            error = "" if score["standard_error"] is None else f" ± {score['standard_error']:.4f}"
            lines.append(f"evaluated    step {evaluation['step']:,}: {main_score} {score['value']:.4f}{error}")
    lines.append(
        f"alias        {alias['name']} -> step {alias['step']:,} of {alias['run']}, generation {alias['generation']}"
        if alias
        else "alias        nothing promoted yet"
    )
    return "\n".join(lines)
