"""One rank's life: find its place in the world, claim the run, train, and let rank 0 tell what happens."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from cluster.signals import StopNotice
from cluster.world import world_from_env
from pipeline.config import RunConfig, check_batch
from pipeline.locks import locked
from pipeline.monitor.journal import Journal
from pipeline.runs import begin
from pipeline.train.loop import train
from pipeline.workspace import Workspace

View = Callable[[str, dict[str, Any]], None]
"""Shows a journal line, given its kind and figures, to people."""


def train_rank(config: RunConfig, workspace: Workspace, views: Callable[[], Sequence[View]]) -> None:
    """Trains as one rank of the run. `views` is called on rank 0 only, since a view may be costly to make.

    Raises Mistake if the batch does not fit the world that this rank finds itself in, or if another process trains the run.
    """
    run = workspace.run(config.name)
    with StopNotice() as notice:
        world = world_from_env(os.environ)
        check_batch(config.train, world.size)
        if not world.is_main:
            corpus, manifest = begin(config, workspace, write=False)
            train(config, run, corpus, manifest, world, notice, lambda kind, **figures: None)
            return
        busy = f"{run.path} is being trained by another process; watch it with: headrace status CONFIG"
        with locked(run.path / "train.lock", busy=busy), Journal(run.metrics) as journal:
            corpus, manifest = begin(config, workspace)
            shown = views()

            def tell(kind: str, **figures: Any) -> None:
                journal.append(kind, **figures)
                for view in shown:
                    view(kind, figures)

            train(config, run, corpus, manifest, world, notice, tell)
