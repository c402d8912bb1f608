"""The evaluation stage: one checkpoint of a run, scored once, its report on disk and in the journal."""

from collections.abc import Callable

from pipeline.config import RunConfig
from pipeline.errors import Mistake
from pipeline.evaluate.report import EvalReport, report_of, write_report
from pipeline.locks import locked
from pipeline.monitor.journal import Journal, read_journal
from pipeline.train.checkpoint import read_checkpoint, steps_saved
from pipeline.workspace import RunFolder, Workspace


def evaluate_step(
    config: RunConfig,
    workspace: Workspace,
    step: int | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvalReport:
    """The held-out report of a step's checkpoint, the newest if None; made only if it is not there yet. Raises
    CorruptCheckpoint.

    `progress` hears of tokens done and in all, before each batch. If it raises, or if all ends here, the next call goes
    on with that batch.
    """
    run = workspace.run(config.name)
    step = pick_step(config, workspace, step)
    path = run.report(step, "heldout")
    scored = path.with_suffix(".scored")
    with locked(path.with_suffix(".lock")):  # whoever comes second waits, and finds the first one's report
        known = report_of(path, read_checkpoint(run.checkpoint(step)).digest)
        if known is not None:
            scored.unlink(missing_ok=True)
            tell(run, known)
            return known
        from pipeline.evaluate.heldout import evaluate_heldout

        report = evaluate_heldout(run.checkpoint(step), workspace.corpora, scored, progress)
        tell(run, report)  # first: nobody evaluates again what has a report
        write_report(path, report)
        scored.unlink()
        return report


def tell(run: RunFolder, report: EvalReport) -> None:
    """Adds a report's line to the journal, if it is not there: a crash may have come between the two."""
    if any(line["kind"] == "eval" and line.get("report") == report.digest for line in read_journal(run.metrics)):
        return
    scores = {name: {"value": one.value, "standard_error": one.standard_error} for name, one in report.scores.items()}
    with Journal(run.metrics) as journal:
        journal.append("eval", step=report.step, suite=report.suite, scores=scores, report=report.digest)


def pick_step(config: RunConfig, workspace: Workspace, step: int | None) -> int:
    """The step asked for, or the newest saved. Raises Mistake naming those that are there."""
    saved = steps_saved(workspace.run(config.name).checkpoints)
    if not saved:
        raise Mistake(f"run {config.name} has no checkpoint yet; train it with: headrace run CONFIG")
    if step is None:
        return saved[-1]
    if step not in saved:
        raise Mistake(f"--step {step}: run {config.name} has no such checkpoint; it has {', '.join(map(str, saved))}")
    return step
