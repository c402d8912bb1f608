"""The training loop.

    join the world ──> build model and engine ──> resume or save step 0 ──> step, tell, save ... ──> end

What is unusual: the loop's whole data state is the step number; step 0 is saved before any training, so that a run
which cannot save finds out at once; and the notice to stop travels with the loss in the one all-reduce of each step, so
that all ranks stop at the same one.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cluster.signals import StopNotice
from cluster.world import World
from data_prep.manifest import Manifest
from pipeline.config import RunConfig
from pipeline.data.loader import Loader
from pipeline.data.order import Order, order_of
from pipeline.errors import Mistake, PipelineError, StoppedOnNotice
from pipeline.model.decoder import build
from pipeline.train.checkpoint import Checkpoint, Newest, newest_good, read_checkpoint
from pipeline.train.engine import averaged, join_world, set_learning_rate, start_engine, train_step
from pipeline.train.saving import load, save
from pipeline.train.schedule import learning_rate
from pipeline.workspace import RunFolder

Tell = Callable[..., None]
"""`tell(kind, **figures)`: adds a line to the run's journal, on rank 0; elsewhere it does nothing."""


def train(
    config: RunConfig, run: RunFolder, corpus: Path, manifest: Manifest, world: World, notice: StopNotice, tell: Tell
) -> None:
    """Trains a run to its last step, from its newest good checkpoint. Raises StoppedOnNotice after a save if asked to
    stop."""
    join_world(world)
    order = order_of(manifest, tuple(source.weight for source in config.data.sources), config.train.seed)
    model = build(config.model, manifest.vocab_size, manifest.end_of_text_id, config.train.seed)
    engine = start_engine(model, config.train, world)

    def commit(step: int) -> None:
        began = time.perf_counter()
        saved = save(engine, run.checkpoints, describe(config, corpus, manifest, order, step, world), world)
        size = sum(file.size_bytes for file in saved.files.values())
        tell("checkpoint", step=step, digest=saved.digest, size_bytes=size, save_s=time.perf_counter() - began)

    step = resume(engine, config, run, order, world, tell)
    if step is None:
        tell(
            "start", run=config.name, config_digest=config.digest, world_size=world.size, total_steps=config.total_steps
        )
        step = 0
        commit(step)
    with loader_of(config, corpus, manifest, order, world) as loader:
        while step < config.total_steps:
            step, stop = take_step(engine, config, loader, order, step, notice, world, tell)
            if stop:
                tell("notice", step=step, reason=notice.reason or "another rank was told to stop")
            if stop or step == config.total_steps or step % config.train.checkpoint.every_steps == 0:
                commit(step)
            if stop and step < config.total_steps:
                raise StoppedOnNotice(
                    f"run {config.name} stopped on notice at step {step}, saved; run it again to resume"
                )
    tell("end", step=step)


def take_step(
    engine: Any,
    config: RunConfig,
    loader: Loader,
    order: Order,
    done: int,
    notice: StopNotice,
    world: World,
    tell: Tell,
) -> tuple[int, bool]:
    """One optimizer step over the global batch. Gives the number of steps done, and whether a notice to stop has come
    to any rank."""
    began = time.perf_counter()
    rate = learning_rate(done, config.total_steps, config.train.optimizer.lr, config.train.schedule)
    set_learning_rate(engine, rate)
    own_losses, grad_norm = train_step(engine, loader.batch(done))
    told = own_losses.new_tensor([float(notice.requested())])
    loss, z_loss, stop = averaged(torch.cat([own_losses, told]), world)
    step, batch_size = done + 1, config.train.global_batch_size
    step_s = time.perf_counter() - began
    tell(
        "step",
        step=step,
        tokens=step * batch_size * config.data.sequence_length,
        loss=loss,
        **({"z_loss": z_loss} if config.model.z_loss else {}),
        lr=rate,
        grad_norm=grad_norm,
        batch_digest=order.batch_digest(done, batch_size) if world.is_main else None,
        step_s=step_s,
        tokens_per_s=batch_size * config.data.sequence_length / step_s,
    )
    if not math.isfinite(loss):
        raise PipelineError(
            f"run {config.name}: the loss at step {step} is {loss}; the checkpoints before it are intact. "
            "Lower train.optimizer.lr under a new name, or look at the step's documents"
        )
    return step, stop > 0


def resume(engine: Any, config: RunConfig, run: RunFolder, order: Order, world: World, tell: Tell) -> int | None:
    """Loads the newest checkpoint whose files all hold, and gives its step; None if the run has none yet."""
    found: list[Newest | None] = [newest_good(run.checkpoints) if world.is_main else None]
    dist.broadcast_object_list(found)
    newest = found[0]
    assert newest is not None
    for problem in newest.passed_over:
        tell("guard", verdict="checkpoint_corrupt", problem=problem)
    if newest.step is None:
        if newest.passed_over:
            raise PipelineError(f"{run.checkpoints}: no good checkpoint is left: {'; '.join(newest.passed_over)}")
        return None
    path = run.checkpoint(newest.step)
    checkpoint = read_checkpoint(path)
    expected = order.position(newest.step * config.train.global_batch_size)
    if (checkpoint.config_digest, checkpoint.position) != (config.digest, expected):
        raise Mistake(f"{path} was made by another config or from another corpus; give this run another name")
    load(engine, path, checkpoint, world)
    tell("resume", step=newest.step, checkpoint=checkpoint.digest, world_size=world.size)
    return newest.step


def describe(config: RunConfig, corpus: Path, manifest: Manifest, order: Order, step: int, world: World) -> Checkpoint:
    """The record of a checkpoint, but for its files."""
    next_sequence = step * config.train.global_batch_size
    return Checkpoint(
        run=config.name,
        step=step,
        tokens=next_sequence * config.data.sequence_length,
        position=order.position(next_sequence),
        config_digest=config.digest,
        world_size=world.size,
        zero_stage=config.train.zero.stage,
        precision=config.train.precision,
        model=config.model,
        vocab_size=manifest.vocab_size,
        end_of_text_id=manifest.end_of_text_id,
        sequence_length=manifest.sequence_length,
        tokenizer_sha256=manifest.tokenizer_sha256,
        corpus=corpus.name,
        files={},
    )


def loader_of(config: RunConfig, corpus: Path, manifest: Manifest, order: Order, world: World) -> Loader:
    return Loader(
        corpus,
        manifest,
        order,
        rank=world.rank,
        world_size=world.size,
        global_batch_size=config.train.global_batch_size,
        micro_batch_size=config.train.micro_batch_size,
    )
