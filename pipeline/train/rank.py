"""One rank's life: find its place in the world, claim the run, train, and let rank 0 tell what happens."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cluster.signals import STOP_FILE_VARIABLE, StopNotice
from cluster.world import world_from_env
from data_prep.manifest import Manifest
from pipeline.config import RunConfig, check_batch
from pipeline.durable import bring_corpus, bring_pins, remote_run
from pipeline.locks import locked
from pipeline.monitor.journal import Journal
from pipeline.monitor.views import training_view
from pipeline.notice import unless_told
from pipeline.runs import begin, run_id
from pipeline.train.gpus import check_gpus
from pipeline.train.loop import train
from pipeline.train.tiers import catch_up
from pipeline.train.told import on_record
from pipeline.train.training import Tell, Training
from pipeline.train.upload import Uploader
from pipeline.workspace import RunFolder, Workspace


def train_rank(config: RunConfig, workspace: Workspace) -> bool:
    """Trains as one rank of the run, and gives whether this is rank 0, the one that speaks.

    Raises Mistake if the batch does not fit the world that this rank finds itself in, if it has no GPU where others
    have one, or if another process trains the run.
    """
    run = workspace.run(config.name)
    world = world_from_env(os.environ)
    with StopNotice(ctrl_c="once" if world.size == 1 else "always") as notice:
        check_batch(config.train, world.size)
        check_gpus(world, torch.cuda.device_count())
        bring_pins(config, workspace)
        bring_corpus(config, workspace, unless_told(notice, "its corpus was fetched"))

        def training(tell: Tell, corpus: Path, manifest: Manifest) -> Training:
            return Training(
                config=config, run=run, corpus=corpus, manifest=manifest, world=world, notice=notice, tell=tell
            )

        if not world.is_main:
            with notice.told_to(on_record(world, None)):
                train(training(lambda kind, **figures: None, *begin(config, workspace, write=False)))
            return False
        busy = f"{run.path} is being trained by another process; watch it with: headrace status CONFIG"
        with (
            locked(run.train_lock, busy=busy),
            up_to_date(config, run) as journal,
            notice.told_to(on_record(world, journal)),
        ):
            if STOP_FILE_VARIABLE not in os.environ:  # started by hand; no rank looks before it has met this one
                run.stop.unlink(missing_ok=True)
            corpus, manifest = begin(config, workspace)
            with training_view(config, run, run_id(config, manifest.digest)) as view:

                def say(kind: str, **figures: Any) -> None:
                    journal.append(kind, **figures)
                    view(kind, figures)

                with stored(config, run, say, notice.requested) as tell:
                    train(training(tell, corpus, manifest))
            return True


@contextmanager
def up_to_date(config: RunConfig, run: RunFolder) -> Iterator[Journal]:
    """The run's journal, with what the run has lived through elsewhere."""
    if (remote := remote_run(config)) is not None:
        catch_up(run, remote)
    with Journal(run.metrics) as journal:
        yield journal


@contextmanager
def stored(config: RunConfig, run: RunFolder, say: Tell, told_to_stop: Callable[[], bool]) -> Iterator[Tell]:
    """Where there is a remote, who tells the journal tells the uploader too."""
    remote = remote_run(config)
    if remote is None:
        yield say
        return
    grace_s = config.train.checkpoint.upload_grace_s
    with Uploader(run, remote, say, grace_s=grace_s, told_to_stop=told_to_stop) as uploader:

        def tell(kind: str, **figures: Any) -> None:
            say(kind, **figures)
            uploader.heard(kind, figures)

        yield tell
