"""One of two ranks that verify a checkpoint together: verifying_ranks.py CHECKPOINT OUT. Each writes down, in its own
file, which files it has read and how each turn ended.
"""

import os
import sys
from pathlib import Path

import torch.distributed as dist

from cluster.world import World, world_from_env
from pipeline.errors import StoppedOnNotice
from pipeline.notice import GoOn, go_on
from pipeline.train import checkpoint
from pipeline.train.newest import verify_together


def turn(path: Path, world: World, between: GoOn = go_on) -> list[str]:
    read: list[str] = []
    verify = checkpoint.sha256_file

    def reading(file: Path) -> str:
        read.append(file.name)
        return verify(file)

    checkpoint.sha256_file = reading
    try:
        verify_together(path, world, between=between)
        end = "good"
    except Exception as error:
        end = f"{type(error).__name__}: {error}"
    finally:
        checkpoint.sha256_file = verify
    return [*sorted(read), end]


def told(*_: object) -> None:
    raise StoppedOnNotice("told")


def main(path: Path, out: Path) -> None:
    world = world_from_env(os.environ)
    dist.init_process_group("gloo")
    turns = [turn(path, world), turn(path, world, told if world.rank else go_on)]
    verify = checkpoint.sha256_file
    if world.rank:
        checkpoint.sha256_file = lambda file: "what only this machine reads"
    turns.append(turn(path, world))
    checkpoint.sha256_file = verify
    if world.is_main:
        name = next(one for one in checkpoint.read_checkpoint(path).files if one not in turns[0])  # one of rank 1's
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    dist.barrier()
    turns.append(turn(path, world))
    (out / f"rank-{world.rank}").write_text("\n".join(map(" ".join, turns)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
