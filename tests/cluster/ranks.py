"""A small real job, run by every rank of the launcher tests: they meet, add up, and do as the first argument says.

sum             all-reduce once, go on when the file RANKS_GO is there, if it is asked for; exit 0
until-told      go on in steps until a notice comes; stop together, the later the higher the rank; exit 75
until-told-once the same on the first stretch; on the next one as `sum`
fail            rank 1 exits with 7 while rank 0 goes on, which finds it gone and fails behind it
early           rank 0 exits with 2 before the ranks meet, once rank 1 listens for a notice: torchrun sends it one then
early-stopped   the same with 75
"""

import os
import socket
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from cluster.meeting import while_all_come
from cluster.signals import STOP_FILE_VARIABLE, StopNotice, agreed
from cluster.world import world_env, world_from_env


def any_rank(flag: bool) -> bool:
    flag_1 = torch.tensor([float(flag)])
    dist.all_reduce(flag_1, op=dist.ReduceOp.MAX)
    return bool(flag_1.item())


def main(mode: str) -> int:
    world = world_from_env(os.environ)
    os.environ.update(world_env(world))
    with StopNotice() as notice:
        if mode.startswith("early"):
            listens = Path(os.environ[STOP_FILE_VARIABLE]).with_name("listens")
            if world.rank == 0:
                while not listens.exists():
                    time.sleep(0.02)
                return 75 if mode == "early-stopped" else 2
            listens.touch()
        with while_all_come(world.rank):
            dist.init_process_group("gloo")
        total_1 = torch.tensor([float(world.rank + 1)])
        dist.all_reduce(total_1)
        # One write each: the ranks share a log.
        sys.stdout.write(f"rank {world.rank} of {world.size} on {socket.gethostname()}: sum {total_1.item():.0f}\n")
        if mode == "fail" and world.rank == 1:
            return 7
        told_before = Path(os.environ.get("RANKS_MARK", "/nonexistent")).exists()
        if mode == "sum" or (mode == "until-told-once" and told_before):
            while "RANKS_GO" in os.environ and not Path(os.environ["RANKS_GO"]).exists():
                time.sleep(0.02)
            dist.barrier()
            dist.destroy_process_group()
            return 0
        try:
            while not agreed(notice.requested(), any_rank):
                time.sleep(0.02)
        except RuntimeError:  # connections close a while before a process has ended, and its end is on record
            while mode == "fail" and not Path(os.environ[STOP_FILE_VARIABLE]).with_name("rank-00001.json").exists():
                time.sleep(0.02)
            raise
        # Ranks never end at the same moment: the last one must be let finish its save.
        time.sleep(world.rank * 2)
        if mode == "until-told-once" and world.rank == 0:
            Path(os.environ["RANKS_MARK"]).touch()
        sys.stdout.write(f"rank {world.rank} stopped on {notice.reason}\n")
        return 75


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
