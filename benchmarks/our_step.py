"""Our training step as a run takes it, for benchmarks to time: `pipeline.train.loop.take_step` on one rank."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.signals import StopNotice
from cluster.world import world_from_env
from data_prep.manifest import Manifest
from data_prep.pack import Tokens
from pipeline.config import RunConfig
from pipeline.data.loader import Loader
from pipeline.data.order import Order, order_of
from pipeline.model.decoder import outline
from pipeline.monitor.journal import Journal
from pipeline.train.engine import in_world, start_engine
from pipeline.train.feeding import loader_of
from pipeline.train.guard import Figures, Guard, GuardState
from pipeline.train.loop import digest_by, take_step
from pipeline.train.training import Tell, Training
from pipeline.workspace import RunFolder


@dataclass
class TimedLoader:
    """Knows how long it was waited for."""

    loader: Loader
    waited_s: float = 0.0

    def batch(self, step: int) -> Tokens:
        began = time.perf_counter()
        batch = self.loader.batch(step)
        self.waited_s += time.perf_counter() - began
        return batch


@dataclass(kw_only=True)
class Steps:
    """A run that goes as far as it is asked to: all that the loop does between two checkpoints."""

    training: Training
    engine: Any
    order: Order
    loader: TimedLoader
    beside: ThreadPoolExecutor
    steps: int = 0
    """Taken so far."""

    def __post_init__(self) -> None:
        self.guard = Guard(self.training.config.train.guard, GuardState(), [])

    def step(self) -> Figures:
        """Takes the next step; gives its loss and gradient norm, for which it has waited."""
        digest = partial(digest_by, self.beside, self.order)
        taken = take_step(self.training, self.engine, self.loader.batch, digest, self.steps)
        self.guard.judge(taken.step, taken.figures)
        self.steps = taken.step
        return taken.figures


def alone(config: RunConfig, corpus: Path, manifest: Manifest, tell: Tell = lambda kind, **figures: None) -> Training:
    """A run in a world of its own."""
    return Training(
        config=config,
        run=RunFolder(path=corpus),
        corpus=corpus,
        manifest=manifest,
        world=world_from_env({}),
        notice=StopNotice({}),
        tell=tell,
    )


@contextmanager
def training_steps(config: RunConfig, corpus: Path, manifest: Manifest) -> Iterator[Steps]:
    """A run on a corpus of one source."""
    order = order_of(manifest, (1.0,), config.train.seed)
    with (
        Journal(corpus / "metrics.jsonl") as journal,
        ThreadPoolExecutor(max_workers=1) as beside,
    ):
        training = alone(config, corpus, manifest, journal.append)
        with in_world(training.world), loader_of(training, order) as loader:
            model = outline(config.model, manifest.vocab_size, manifest.end_of_text_id)
            yield Steps(
                training=training,
                engine=start_engine(model, config.train, training.world),
                order=order,
                loader=TimedLoader(loader),
                beside=beside,
            )
