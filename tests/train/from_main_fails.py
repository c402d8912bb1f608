"""One of two ranks that ask rank 0 for something that it cannot make: from_main_fails.py FOLDER. Each writes down, in
its own file, what it was told of each failure."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from cluster.world import world_from_env
from pipeline.errors import Mistake
from pipeline.train.collectives import from_main


def refuse() -> None:
    raise Mistake("train.lr: no")


def break_down() -> None:
    raise ValueError("guard.json: torn")


FAILURES: tuple[Callable[[], None], ...] = (refuse, break_down)

if __name__ == "__main__":
    world = world_from_env(os.environ)
    dist.init_process_group("gloo")
    with (Path(sys.argv[1]) / f"rank-{world.rank}").open("w") as told:
        for make in FAILURES:
            try:
                from_main(make, world)
            except Exception as error:
                print(f"{type(error).__name__}: {error}", file=told)
        print(from_main(lambda: 7, world), file=told)
    dist.destroy_process_group()
