"""How a run finds its checkpoint again, and what a checkpoint says so that it is found."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.files import canonical_json, plain
from pipeline.data.order import Order
from pipeline.data.position import Position
from pipeline.durable import remote_run
from pipeline.errors import Mistake, PipelineError, StoppedOnNotice
from pipeline.monitor.journal import read_journal
from pipeline.notice import unless_told
from pipeline.train.checkpoint import Checkpoint, read_checkpoint
from pipeline.train.collectives import from_main
from pipeline.train.newest import newest_good
from pipeline.train.saving import load
from pipeline.train.told import first_heard
from pipeline.train.training import Training


def find(training: Training) -> int | None:
    """The step of the newest good checkpoint of both tiers, which is here by now; what was found on the way to it is
    said. None if the run has none yet: raises PipelineError if it has had one, or has some and none is good."""
    run, world, tell = training.run, training.world, training.tell
    go_on = unless_told(training.notice, "its checkpoint was looked for")

    def warn(problem: str) -> None:
        tell("guard", verdict="checkpoint_corrupt", problem=problem)

    try:
        newest = newest_good(run, remote_run(training.config), world, between=go_on, warn=warn)
    except StoppedOnNotice:
        tell("notice", step=None, **first_heard(training.notice, world))
        raise
    for problem in newest.doubts:
        tell("guard", verdict="remote_doubt", problem=problem)
    if newest.step is None and (problems := newest.damaged + newest.doubts):
        raise PipelineError(f"{run.checkpoints}: no good checkpoint is left: {'; '.join(problems)}")
    if newest.step is None and from_main(lambda: has_saved(run.metrics), world):
        raise PipelineError(
            f"{run.checkpoints}: the checkpoints that were here are gone, or damaged and set aside; nothing is left to "
            f"go on from. Put one back, or remove {run.path} to begin anew"
        )
    return newest.step


def has_saved(journal: Path) -> bool:
    """Whether the run has had a checkpoint: without one now it would begin at step 0 again, as if it had not."""
    return any(line["kind"] in ("checkpoint", "resume") for line in read_journal(journal))


def resume(training: Training, engine: Any, order: Order, step: int) -> None:
    """Loads the checkpoint of a step, which has been found good."""
    config, run, world = training.config, training.run, training.world
    path = run.checkpoint(step)
    checkpoint = read_checkpoint(path)
    expected = order.position(config.batches.first(step))
    if problem := misfit(checkpoint, config.digest, expected, run.guard):
        raise Mistake(f"{path} {problem}")
    load(engine, path, checkpoint, world)
    training.tell(
        "resume",
        step=step,
        checkpoint=checkpoint.digest,
        world_size=world.size,
        zero_stage=config.train.zero.stage,
        sequence_parallel=config.train.sequence_parallel,
        saved_by={"world_size": checkpoint.world_size, "zero_stage": checkpoint.zero_stage},
    )


def misfit(checkpoint: Checkpoint, config_digest: str, expected: Position, guard: Path) -> str:
    """Why a run of that config, which its corpus and its guard's record bring to that position, cannot go on from a
    checkpoint, and what to do; empty if it can."""
    if (checkpoint.config_digest, checkpoint.position) == (config_digest, expected):
        return ""
    left_out = checkpoint.position.skipped
    if (checkpoint.config_digest, replace(checkpoint.position, skipped=expected.skipped)) == (config_digest, expected):
        record = canonical_json({"skipped": [plain(window) for window in left_out]}).decode()
        return (
            f"was trained on other data than {guard} leads to, which is gone or not the one of then; "
            f"put that one back, or one that says {record}"
        )
    return "was made by another config or from another corpus; give this run another name"


def describe(training: Training, order: Order, step: int) -> Checkpoint:
    """The record of a checkpoint, but for its files."""
    config, manifest = training.config, training.manifest
    next_sequence = config.batches.first(step)
    return Checkpoint(
        run=config.name,
        step=step,
        tokens=next_sequence * config.data.sequence_length,
        position=order.position(next_sequence),
        config_digest=config.digest,
        world_size=training.world.size,
        zero_stage=config.train.zero.stage,
        precision=config.train.precision,
        model=config.model,
        vocab_size=manifest.vocab_size,
        end_of_text_id=manifest.end_of_text_id,
        sequence_length=manifest.sequence_length,
        tokenizer_sha256=manifest.tokenizer_sha256,
        corpus=training.corpus.name,
        files={},
    )
