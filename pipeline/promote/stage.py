"""The promotion stage: one evaluated checkpoint of a run before the gate of the run's alias."""

from pathlib import Path

from pipeline.config import RunConfig
from pipeline.errors import Mistake
from pipeline.evaluate.report import report_of
from pipeline.monitor.journal import Journal
from pipeline.notice import GoOn, go_on
from pipeline.promote.chain import Entry
from pipeline.promote.config import PromoteConfig
from pipeline.promote.registry import promote, read_entries
from pipeline.train.checkpoint import read_checkpoint, verify_checkpoint
from pipeline.workspace import Workspace


def check_checkpoint(path: Path) -> str:
    """Every file of a checkpoint compared with its record; gives the record's digest."""
    return verify_checkpoint(path).digest


def promotion_of(config: RunConfig) -> PromoteConfig:
    """Raises Mistake if the config promotes nothing."""
    if config.promote is None:
        raise Mistake("promote: missing; add promote.model, the name that the model has in the registry")
    return config.promote


def promote_step(config: RunConfig, workspace: Workspace, step: int, *, between: GoOn = go_on) -> Entry:
    """Brings a step's checkpoint, with its report, before the gate. The verdict is in the registry's journal and the
    run's. `between` is called before each file that is verified."""
    run = workspace.run(config.name)
    checkpoint = run.checkpoint(step)
    report = report_of(run.report(step, "heldout"), read_checkpoint(checkpoint).digest)
    if report is None:
        raise Mistake(
            f"step {step} of run {config.name} is not evaluated yet; do it with: headrace evaluate CONFIG --step {step}"
        )
    promotion = promotion_of(config)
    known = judged_checkpoints(config, workspace)
    entry = promote(
        workspace.path,
        promotion,
        report,
        checkpoint,
        check_checkpoint=lambda path: verify_checkpoint(path, between=between).digest,
    )
    if report.checkpoint_digest not in known:
        with Journal(run.metrics) as journal:
            assert entry.decision is not None
            journal.append(
                "promote",
                step=step,
                verdict=entry.kind,
                alias=f"{promotion.model}@{promotion.alias}",
                generation=entry.generation,
                why=entry.decision.why(),
                entry=entry.digest,
            )
    return entry


def judged_checkpoints(config: RunConfig, workspace: Workspace) -> frozenset[str]:
    """Digests of this run's checkpoints that the alias's journal already holds a verdict on."""
    promotion = promotion_of(config)
    entries = read_entries(workspace.path, promotion.model)
    return frozenset(
        entry.checkpoint.digest
        for entry in entries
        if entry.alias == promotion.alias and entry.checkpoint.run == config.name and entry.decision is not None
    )
