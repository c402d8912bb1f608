"""The training loop.

    join the world ──┬──> find the newest good checkpoint ──> resume, or save step 0 ──> step, judge, save ... ──> end
                     └────────────────────────────── roll back <───────────────────────────┘ a bad step

What is unusual: the loop's whole data state is the step number; step 0 is saved before any training, so that a run
which cannot save finds out at once; later checkpoints are written beside training, and the end waits for the last; the
notice to stop travels with the loss in the one all-reduce of each step, and so does the end of a save, so that all
ranks stop, or fail, at the same one; and a rollback is a resume like any other, only without a new process.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from cluster.signals import agreed
from data_prep.pack import Tokens
from pipeline.data.order import Order, order_of_config
from pipeline.errors import StoppedOnNotice
from pipeline.model.decoder import outline
from pipeline.monitor.journal import to_disk
from pipeline.train.collectives import averaged, from_main
from pipeline.train.engine import in_world, seed_rank, set_learning_rate, start_engine, train_step
from pipeline.train.feeding import check_corpus, loader_of
from pipeline.train.guard import Figures, Guard, GuardState, read_guard
from pipeline.train.resume import describe, find, resume
from pipeline.train.rollback import act, recent_figures
from pipeline.train.saving import Saver
from pipeline.train.schedule import learning_rate, progress
from pipeline.train.stragglers import of_rank, rank_figures
from pipeline.train.told import first_heard
from pipeline.train.training import Training
from pipeline.train.watchdog import Watchdog


def train(training: Training) -> None:
    """Trains a run to its last step, from its newest good checkpoint. Raises StoppedOnNotice after a save if asked to
    stop, PipelineError if the guard has rolled back too often."""
    config, run, world = training.config, training.run, training.world
    check_corpus(training)
    with watchdog_of(training) as watchdog, in_world(world):
        training.notice.watch(run.stop)  # all have met, so rank 0 has removed one that was meant for an earlier start
        seed_rank(config.train, world)
        step = find(training)
        model = outline(config.model, training.manifest.vocab_size, training.manifest.end_of_text_id)
        engine = start_engine(model, config.train, world, first_weights=step is None)
        beside = config.train.checkpoint.asynchronous
        with Saver(engine, run.checkpoints, world, training.tell, asynchronous=beside) as saver:
            while not train_on(training, engine, saver, watchdog, step):
                watchdog.restart()
                step = find(training)


def train_on(training: Training, engine: Any, saver: Saver, watchdog: Watchdog, step: int | None) -> bool:
    """From the checkpoint of a step, or from the first weights, to the last step; gives False if a bad step came, and
    all is ready to begin again from behind it."""
    config, world, tell = training.config, training.world, training.tell
    state = from_main(lambda: read_guard(training.run.guard), world)
    order = order_of_config(config, training.manifest, state.skipped)

    def commit(step: int) -> None:
        # The steps that led here come to disk before the checkpoint does.
        from_main(lambda: to_disk(training.run.metrics), world)
        saver.save(describe(training, order, step))

    if step is not None:
        resume(training, engine, order, step)
    else:
        tell(
            "start", run=config.name, config_digest=config.digest, world_size=world.size, total_steps=config.total_steps
        )
        step = 0
        commit(step)
        saver.wait()
    guard = guard_of(training, state, order, step)
    stop = told(training, engine)  # it may have come while all this was loaded
    with loader_of(training, order) as loader, ThreadPoolExecutor(max_workers=1) as beside:
        while step < config.total_steps and not stop:
            taken = take_step(training, engine, loader.batch, partial(digest_by, beside, order), step, saver.is_over)
            watchdog.beat()
            if taken.save_is_over:
                saver.wait()
            decision = guard.judge(taken.step, taken.figures)
            if decision.kind != "go_on":
                saver.wait()  # what it commits may have to be set aside
                act(training, decision, guard.state, order)
            if decision.rolls_back:
                return False
            step, stop = taken.step, taken.stop
            if stop or step == config.total_steps or step % config.train.checkpoint.every_steps == 0:
                commit(step)
                watchdog.beat()
                stop = stop or told(training, engine)  # it may have come during the save: it holds this very step
    saver.wait()
    if stop:
        tell("notice", step=step, **first_heard(training.notice, world))
    if step < config.total_steps:
        raise StoppedOnNotice(f"run {config.name} stopped on notice at step {step}, saved; run it again to resume")
    tell("end", step=step)
    return True


def guard_of(training: Training, state: GuardState, order: Order, step: int) -> Guard:
    """The guard, with the figures of the last steps up to this one on the same mix of sources."""
    config = training.config.train.guard
    changes = [training.config.batches.step_at(position) + 1 for position in order.changes()]
    since = max((change for change in changes if change <= step), default=0)
    metrics = training.run.metrics
    history = from_main(lambda: recent_figures(metrics, config.window_steps, since), training.world)
    return Guard(config, state, history, changes)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A step that has been taken, as all ranks see it."""

    step: int
    """Steps done, this one included."""
    figures: Figures
    stop: bool
    """Whether a notice to stop has come to any rank."""
    save_is_over: bool
    """Whether a save was in flight that all ranks have come to the end of."""


def take_step(
    training: Training,
    engine: Any,
    batch_of: Callable[[int], Tokens],
    digest_of: Callable[[range], Future[str]],
    done: int,
    save_is_over: Callable[[], bool] = lambda: False,
) -> Taken:
    """One optimizer step over the global batch. `batch_of`: this rank's part of it, by the steps done before.
    `save_is_over`: as this rank sees it."""
    config, world = training.config, training.world
    began = time.perf_counter()
    step, at = done + 1, progress(config, done)
    rate = learning_rate(at, config.train.optimizer.lr, config.train.schedule)
    set_learning_rate(engine, rate)
    digest = digest_of(config.batches.positions(done)) if world.is_main else None
    batch = batch_of(done)
    loading_s = time.perf_counter() - began
    own_losses, own_norm, forward_s = train_step(engine, batch)
    # The norm goes round too: what is judged must be the same on all ranks to the last bit.
    own = [float(training.notice.requested()), float(save_is_over()), own_norm, *of_rank(loading_s + forward_s, world)]
    loss, z_loss, stop, over, grad_norm, *own_s = averaged(torch.cat([own_losses, own_losses.new_tensor(own)]), world)
    step_s = time.perf_counter() - began
    training.tell(
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
    return Taken(step=step, figures=Figures(loss=loss, grad_norm=grad_norm), stop=stop > 0, save_is_over=over == 1)


def digest_by(thread: ThreadPoolExecutor, order: Order, positions: range) -> Future[str]:
    """The digest of a step's batch, made beside the step: over a hundred thousand sequences it takes 40 ms."""
    return thread.submit(order.batch_digest, positions)


def told(training: Training, engine: Any) -> bool:
    """Whether any rank has been told to stop."""

    def any_rank(own: bool) -> bool:
        return averaged(torch.tensor([float(own)], device=engine.device), training.world)[0] > 0

    return agreed(training.notice.requested(), any_rank)


def watchdog_of(training: Training) -> Watchdog:
    """One that tells the journal before it ends the process."""
    guard = training.config.train.guard
    return Watchdog(
        training.config.name,
        rank=training.world.rank,
        step_timeout_s=guard.step_timeout_s,
        start_timeout_s=guard.start_timeout_s,
        hung=lambda silent_s: training.tell(
            "guard", verdict="hung", silent_s=silent_s, problem="no step ends any more"
        ),
    )
