"""One rank's life: find its place in the world, claim the run, train, and let rank 0 tell what happens."""

import os
from typing import Any

from cluster.signals import STOP_FILE_VARIABLE, StopNotice
from cluster.world import world_from_env
from pipeline.config import RunConfig, check_batch
from pipeline.locks import locked
from pipeline.monitor.journal import Journal
from pipeline.monitor.views import training_view
from pipeline.runs import begin, run_id
from pipeline.train.loop import train
from pipeline.workspace import Workspace


def train_rank(config: RunConfig, workspace: Workspace) -> bool:
    """Trains as one rank of the run, and gives whether this is rank 0, the one that speaks.

    Raises Mistake if the batch does not fit the world that this rank finds itself in, or if another process trains the
    run.
    """
    run = workspace.run(config.name)
    with StopNotice(files=(run.stop,)) as notice:
        world = world_from_env(os.environ)
        check_batch(config.train, world.size)
        if not world.is_main:
            corpus, manifest = begin(config, workspace, write=False)
            train(config, run, corpus, manifest, world, notice, lambda kind, **figures: None)
            return False
        busy = f"{run.path} is being trained by another process; watch it with: headrace status CONFIG"
        with locked(run.path / "train.lock", busy=busy), Journal(run.metrics) as journal:
            if STOP_FILE_VARIABLE not in os.environ:  # started by hand; no rank looks before it has met this one
                run.stop.unlink(missing_ok=True)
            corpus, manifest = begin(config, workspace)
            with training_view(config, run, run_id(config, manifest.digest)) as view:

                def tell(kind: str, **figures: Any) -> None:
                    journal.append(kind, **figures)
                    view(kind, figures)

                train(config, run, corpus, manifest, world, notice, tell)
            return True
