"""The training loop.

    join the world ──> build model and engine ──┬──> resume or save step 0 ──> step, judge, save ... ──> end
                                                └────────────── roll back <─────────┘ a bad step

What is unusual: the loop's whole data state is the step number; step 0 is saved before any training, so that a run
which cannot save finds out at once; later checkpoints are written beside training, and the end waits for the last; the
notice to stop travels with the loss in the one all-reduce of each step, so that all ranks stop at the same one; and a
rollback is a resume like any other, only without a new process.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cluster.signals import StopNotice, agreed
from cluster.world import World
from data_prep.manifest import Manifest
from pipeline.config import RunConfig
from pipeline.data.corpus_shards import CorpusShards, LocalShards
from pipeline.data.loader import Loader
from pipeline.data.order import Order, order_of_config
from pipeline.data.shard_cache import ShardCache, check_budget, default_folder
from pipeline.data.trace import document_ids
from pipeline.durable import check_shards, lacks_shards, remote_of, remote_run
from pipeline.errors import Mistake, PipelineError, StoppedOnNotice
from pipeline.model.decoder import build
from pipeline.notice import unless_told
from pipeline.train.checkpoint import Checkpoint, Newest, read_checkpoint
from pipeline.train.engine import (
    averaged,
    from_main,
    host_buffer,
    in_world,
    seed_rank,
    set_learning_rate,
    start_engine,
    train_step,
)
from pipeline.train.guard import Figures, Guard, act, read_guard, recent_figures
from pipeline.train.saving import Saver, load
from pipeline.train.schedule import learning_rate, progress
from pipeline.train.stragglers import of_rank, rank_figures
from pipeline.train.tiers import newest_of_tiers
from pipeline.train.told import first_heard
from pipeline.train.watchdog import Watchdog
from pipeline.workspace import RunFolder

Tell = Callable[..., None]
"""`tell(kind, **figures)`: adds a line to the run's journal, on rank 0; elsewhere it does nothing."""


def train(
    config: RunConfig, run: RunFolder, corpus: Path, manifest: Manifest, world: World, notice: StopNotice, tell: Tell
) -> None:
    """Trains a run to its last step, from its newest good checkpoint. Raises StoppedOnNotice after a save if asked to
    stop, PipelineError if the guard has rolled back too often."""
    check_shards(config, corpus)
    if config.data.cache_bytes is not None:
        check_budget(config.data.cache_bytes, manifest)
    with watchdog_of(config, tell) as watchdog, in_world(world):
        notice.watch(run.stop)  # all have met, so rank 0 has removed one that was meant for an earlier start
        seed_rank(config.train, world)
        model = build(config.model, manifest.vocab_size, manifest.end_of_text_id, config.train.seed)
        engine = start_engine(model, config.train, world)
        with Saver(engine, run.checkpoints, world, tell, asynchronous=config.train.checkpoint.asynchronous) as saver:
            while not train_on(engine, saver, config, run, corpus, manifest, world, notice, watchdog, tell):
                watchdog.restart()


def train_on(
    engine: Any,
    saver: Saver,
    config: RunConfig,
    run: RunFolder,
    corpus: Path,
    manifest: Manifest,
    world: World,
    notice: StopNotice,
    watchdog: Watchdog,
    tell: Tell,
) -> bool:
    """From the newest good checkpoint to the last step; gives False if a bad step came, and all is ready to begin
    again from behind it."""
    state = from_main(lambda: read_guard(run.guard), world)
    order = order_of_config(config, manifest, state.skipped)

    def commit(step: int) -> None:
        saver.save(describe(config, corpus, manifest, order, step, world))

    step = resume(engine, config, run, order, world, notice, tell)
    if step is None:
        tell(
            "start", run=config.name, config_digest=config.digest, world_size=world.size, total_steps=config.total_steps
        )
        step = 0
        commit(step)
        saver.wait()
    window_steps = config.train.guard.window_steps
    guard = Guard(config.train.guard, state, from_main(lambda: recent_figures(run.metrics, window_steps), world))
    documents = partial(document_ids, corpus, manifest, order, config.batches)
    stop = told(notice, engine, world)  # it may have come while all this was loaded
    with loader_of(config, corpus, manifest, order, world) as loader, ThreadPoolExecutor(max_workers=1) as beside:
        while step < config.total_steps and not stop:
            taken = take_step(engine, config, loader, partial(digest_by, beside, order), step, notice, world, tell)
            watchdog.beat()
            saver.check()
            decision = guard.judge(taken.step, taken.figures)
            if decision.kind != "go_on":
                saver.wait()  # what it commits may have to be set aside
                act(decision, guard.state, config, run, order, documents, world, tell)
            if decision.rolls_back:
                return False
            step, stop = taken.step, taken.stop
            if stop or step == config.total_steps or step % config.train.checkpoint.every_steps == 0:
                commit(step)
                watchdog.beat()
                stop = stop or told(notice, engine, world)  # it may have come during the save: it holds this very step
    saver.wait()
    if stop:
        tell("notice", step=step, **first_heard(notice, world))
    if step < config.total_steps:
        raise StoppedOnNotice(f"run {config.name} stopped on notice at step {step}, saved; run it again to resume")
    tell("end", step=step)
    return True


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A step that has been taken, as all ranks see it."""

    step: int
    """Steps done, this one included."""
    figures: Figures
    stop: bool
    """Whether a notice to stop has come to any rank."""


def take_step(
    engine: Any,
    config: RunConfig,
    loader: Loader,
    batch_digest: Callable[[range], Future[str]],
    done: int,
    notice: StopNotice,
    world: World,
    tell: Tell,
) -> Taken:
    """One optimizer step over the global batch."""
    began = time.perf_counter()
    step, at = done + 1, progress(config, done)
    rate = learning_rate(at, config.train.optimizer.lr, config.train.schedule)
    set_learning_rate(engine, rate)
    digest = batch_digest(config.batches.positions(done)) if world.is_main else None
    batch = loader.batch(done)
    loading_s = time.perf_counter() - began
    own_losses, own_norm, forward_s = train_step(engine, batch)
    # The norm goes round too: what is judged must be the same on all ranks to the last bit.
    own = [float(notice.requested()), own_norm, *of_rank(loading_s + forward_s, world)]
    loss, z_loss, stop, grad_norm, *own_s = averaged(torch.cat([own_losses, own_losses.new_tensor(own)]), world)
    step_s = time.perf_counter() - began
    tell(
        "step",
        step=step,
        tokens=at.seen + at.step,
        loss=loss,
        **({"z_loss": z_loss} if config.model.z_loss else {}),
        lr=rate,
        grad_norm=grad_norm,
        batch_digest=digest.result() if digest is not None else None,
        step_s=step_s,
        tokens_per_s=at.step / step_s,
        **rank_figures([one * world.size for one in own_s], step),
    )
    return Taken(step=step, figures=Figures(loss=loss, grad_norm=grad_norm), stop=stop > 0)


def digest_by(thread: ThreadPoolExecutor, order: Order, positions: range) -> Future[str]:
    """The digest of a step's batch, made beside the step: over a hundred thousand sequences it takes 40 ms."""
    return thread.submit(order.batch_digest, positions)


def told(notice: StopNotice, engine: Any, world: World) -> bool:
    """Whether any rank has been told to stop."""

    def any_rank(own: bool) -> bool:
        return averaged(torch.tensor([float(own)], device=engine.device), world)[0] > 0

    return agreed(notice.requested(), any_rank)


def watchdog_of(config: RunConfig, tell: Tell) -> Watchdog:
    """One that tells the journal before it ends the process."""
    return Watchdog(
        config.name,
        step_timeout_s=config.train.guard.step_timeout_s,
        start_timeout_s=config.train.guard.start_timeout_s,
        hung=lambda silent_s: tell("guard", verdict="hung", silent_s=silent_s, problem="no step ends any more"),
    )


def resume(
    engine: Any, config: RunConfig, run: RunFolder, order: Order, world: World, notice: StopNotice, tell: Tell
) -> int | None:
    """Loads the newest good checkpoint of both tiers, and gives its step; None if the run has none yet."""

    def find() -> Newest | None:
        """None if a notice comes: the other ranks wait to hear it."""
        try:
            return newest_of_tiers(
                run, remote_run(config), between=unless_told(notice, "its checkpoint was looked for")
            )
        except StoppedOnNotice:
            return None

    newest = from_main(find, world)
    if newest is None:
        tell("notice", step=None, **first_heard(notice, world))
        raise StoppedOnNotice(f"run {config.name} stopped on notice before it was loaded; run it again to resume")
    for problem in newest.passed_over:
        tell("guard", verdict="checkpoint_corrupt", problem=problem)
    if newest.step is None:
        if newest.passed_over:
            raise PipelineError(f"{run.checkpoints}: no good checkpoint is left: {'; '.join(newest.passed_over)}")
        return None
    path = run.checkpoint(newest.step)
    checkpoint = read_checkpoint(path)
    expected = order.position(config.batches.first(newest.step))
    if (checkpoint.config_digest, checkpoint.position) != (config.digest, expected):
        raise Mistake(f"{path} was made by another config or from another corpus; give this run another name")
    load(engine, path, checkpoint, world)
    tell(
        "resume",
        step=newest.step,
        checkpoint=checkpoint.digest,
        world_size=world.size,
        zero_stage=config.train.zero.stage,
        sequence_parallel=config.train.sequence_parallel,
        saved_by={"world_size": checkpoint.world_size, "zero_stage": checkpoint.zero_stage},
    )
    return newest.step


def describe(config: RunConfig, corpus: Path, manifest: Manifest, order: Order, step: int, world: World) -> Checkpoint:
    """The record of a checkpoint, but for its files."""
    next_sequence = config.batches.first(step)
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
        shards_of(config, corpus, manifest, order),
        manifest,
        order,
        rank=config.train.data_rank(world.rank),
        world_size=config.train.data_ranks(world.size),
        batches=config.batches,
        micro_batch_size=config.train.micro_batch_size,
        allocate=host_buffer,
    )


def shards_of(config: RunConfig, corpus: Path, manifest: Manifest, order: Order) -> CorpusShards:
    """Those in the workspace; if it has none, those at the remote, by way of this machine's cache."""
    remote, budget_bytes = remote_of(config), config.data.cache_bytes
    if remote is None or budget_bytes is None or not lacks_shards(corpus):
        return LocalShards(corpus, manifest)
    folder = Path(config.data.cache_folder) if config.data.cache_folder else default_folder()
    return ShardCache(remote.at(f"corpora/{corpus.name}/shards").url, folder, budget_bytes, manifest, order)
