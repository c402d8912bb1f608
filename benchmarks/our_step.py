"""Our training step as a run takes it, for benchmarks to time: `pipeline.train.loop.take_step` on one rank."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cluster.signals import StopNotice
from cluster.world import World, world_from_env
from data_prep.manifest import Manifest
from data_prep.pack import Tokens
from pipeline.config import RunConfig
from pipeline.data.loader import Loader
from pipeline.data.order import Order, order_of
from pipeline.model.decoder import build
from pipeline.monitor.journal import Journal
from pipeline.train.engine import in_world, start_engine
from pipeline.train.guard import Figures, Guard, GuardState
from pipeline.train.loop import digest_by, loader_of, take_step


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
class Training:
    """A run that goes as far as it is asked to: all that the loop does between two checkpoints."""

    config: RunConfig
    corpus: Path
    manifest: Manifest
    world: World
    engine: Any
    order: Order
    loader: TimedLoader
    journal: Journal
    beside: ThreadPoolExecutor
    steps: int = 0
    """Taken so far."""
    notice: StopNotice = field(default_factory=lambda: StopNotice({}))

    def __post_init__(self) -> None:
        self.guard = Guard(self.config.train.guard, GuardState(), [])

    def step(self) -> Figures:
        """Takes the next step; gives its loss and gradient norm, for which it has waited."""
        digest = partial(digest_by, self.beside, self.order)
        taken = take_step(
            self.engine, self.config, self.loader, digest, self.steps, self.notice, self.world, self.journal.append
        )
        self.guard.judge(taken.step, taken.figures)
        self.steps = taken.step
        return taken.figures


@contextmanager
def training(config: RunConfig, corpus: Path, manifest: Manifest) -> Iterator[Training]:
    """A run on a corpus of one source, in a world of its own."""
    world, order = world_from_env({}), order_of(manifest, (1.0,), config.train.seed)
    with (
        in_world(world),
        loader_of(config, corpus, manifest, order, world) as loader,
        Journal(corpus / "metrics.jsonl") as journal,
        ThreadPoolExecutor(max_workers=1) as beside,
    ):
        model = build(config.model, manifest.vocab_size, manifest.end_of_text_id, config.train.seed)
        yield Training(
            config=config,
            corpus=corpus,
            manifest=manifest,
            world=world,
            engine=start_engine(model, config.train, world),
            order=order,
            loader=TimedLoader(loader),
            journal=journal,
            beside=beside,
        )
