"""One rank of a small run on a ready corpus, as the tests start it: torchrun ... train_small.py CONFIG CORPUS."""

import os
import sys
from pathlib import Path

from cluster.signals import StopNotice
from cluster.world import world_from_env
from data_prep.manifest import read_manifest
from pipeline.config import load_config
from pipeline.errors import StoppedOnNotice
from pipeline.monitor.journal import Journal
from pipeline.train.loop import train
from pipeline.train.told import on_record
from pipeline.train.training import Training
from pipeline.workspace import open_workspace


def main(config_path: str, corpus: str, *overrides: str) -> int:
    config = load_config(Path(config_path), overrides)
    run = open_workspace(config).run(config.name)
    world = world_from_env(os.environ)
    journal = Journal(run.metrics) if world.is_main else None
    with StopNotice() as notice, notice.told_to(on_record(world, journal)):
        try:
            train(
                Training(
                    config=config,
                    run=run,
                    corpus=Path(corpus),
                    manifest=read_manifest(Path(corpus)),
                    world=world,
                    notice=notice,
                    tell=journal.append if journal else lambda kind, **figures: None,
                )
            )
        except StoppedOnNotice:
            return 75
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
