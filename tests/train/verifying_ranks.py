"""One of two ranks that verify a checkpoint together, or fetch one: verifying_ranks.py CHECKPOINT OUT, or
verifying_ranks.py fetch RUN REMOTE OUT. Each writes down, in its own file, which files it has read and how each turn
ended.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cluster.world import World, world_from_env
from pipeline.errors import StoppedOnNotice
from pipeline.notice import GoOn, go_on
from pipeline.remote import RemoteFolder
from pipeline.train import checkpoint
from pipeline.train.newest import newest_good, verify_together
from pipeline.workspace import RunFolder


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


def fetch(path: Path, stored: Path, world: World) -> list[list[str]]:
    run, store, asked = RunFolder(path=path), RemoteFolder(stored.as_uri()), []
    ask = RemoteFolder.fetch

    def asking(folder: RemoteFolder, name: str, *how: Any) -> None:
        asked.append(name)
        ask(folder, name, *how)

    RemoteFolder.fetch = asking  # type: ignore[method-assign]
    found = newest_good(run, store, world)
    return [[*sorted(asked), f"{found}"]]


def verify(path: Path, world: World) -> list[list[str]]:
    turns = [turn(path, world), turn(path, world, told if world.rank else go_on)]
    sha256_file = checkpoint.sha256_file
    if world.rank:
        checkpoint.sha256_file = lambda file: "what only this machine reads"
    turns.append(turn(path, world))
    checkpoint.sha256_file = sha256_file
    if world.is_main:
        name = next(one for one in checkpoint.read_checkpoint(path).files if one not in turns[0])  # one of rank 1's
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    dist.barrier()
    turns.append(turn(path, world))
    return turns


if __name__ == "__main__":
    *words, last = sys.argv[1:]
    world = world_from_env(os.environ)
    dist.init_process_group("gloo")
    ends = fetch(Path(words[1]), Path(words[2]), world) if words[0] == "fetch" else verify(Path(words[0]), world)
    (Path(last) / f"rank-{world.rank}").write_text("\n".join(map(" ".join, ends)))
    dist.destroy_process_group()
