"""Which rank of how many this process is, and where the ranks meet: from torchrun, bare srun, or alone.

Ray starts torchrun on each node, so that its ranks look like torchrun's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.errors import ClusterMistake
from cluster.signals import STOP_FILE_VARIABLE


@dataclass(frozen=True, kw_only=True)
class World:
    rank: int
    """0 .. size - 1 over all nodes."""
    size: int
    local_rank: int
    """0 .. local_size - 1 on this node; picks the GPU."""
    local_size: int
    master_addr: str
    """Where rank 0 listens and all ranks meet."""
    master_port: int
    """0 if the rank is alone: its rendezvous, which nobody has to find, takes any port that is free."""

    @property
    def is_main(self) -> bool:
        """Rank 0, the one that writes what is written once."""
        return self.rank == 0


def job_port(job_id: str) -> int:
    """The rendezvous port of a Slurm job: two jobs that share a node get two ports.

    Between 10000 and 29999: above the ports of services, below 32768, where Linux starts to hand out ports to clients.
    """
    digits = re.sub(r"\D", "", job_id)
    return 10000 + int(digits or 0) % 20000


def first_host(nodelist: str) -> str:
    """The first node of a Slurm list: `node[03-05,9],login1` -> `node03`."""
    matched = re.match(r"([^,\[]+)(?:\[([^,\-\]]+)[^\]]*\])?([^,]*)", nodelist)
    if not matched:
        raise ClusterMistake(f"SLURM_JOB_NODELIST={nodelist!r} names no node: start under srun, torchrun or alone")
    prefix, number, suffix = matched.groups()
    return f"{prefix}{number or ''}{suffix}"


def world_from_env(env: Mapping[str, str]) -> World:
    """Reads the world off an environment.

    torchrun's variables win over Slurm's, because torchrun runs under srun. Slurm's count only inside a step: a batch
    script has SLURM_PROCID=0 too, and what it starts by itself is alone. Raises ClusterMistake if some of torchrun's
    variables are set and others missing, where guessing would split one run into several.
    """
    if "RANK" in env or "WORLD_SIZE" in env:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        if missing := [name for name in names if name not in env]:
            raise ClusterMistake(
                f"the environment has RANK or WORLD_SIZE but not {', '.join(missing)}: "
                "start under torchrun or srun, or unset them to run alone"
            )
        return World(
            rank=int(env["RANK"]),
            size=int(env["WORLD_SIZE"]),
            local_rank=int(env["LOCAL_RANK"]),
            local_size=int(env.get("LOCAL_WORLD_SIZE", "1")),
            master_addr=env["MASTER_ADDR"],
            master_port=int(env["MASTER_PORT"]),
        )
    if "SLURM_STEP_NUM_TASKS" in env and "SLURM_PROCID" in env:
        tasks = int(env["SLURM_STEP_NUM_TASKS"])
        nodes = int(env.get("SLURM_STEP_NUM_NODES", "1"))
        return World(
            rank=int(env["SLURM_PROCID"]),
            size=tasks,
            local_rank=int(env["SLURM_LOCALID"]),
            local_size=tasks // nodes,
            master_addr=first_host(env.get("SLURM_STEP_NODELIST") or env["SLURM_JOB_NODELIST"]),
            master_port=job_port(env["SLURM_JOB_ID"]),
        )
    return World(rank=0, size=1, local_rank=0, local_size=1, master_addr="127.0.0.1", master_port=0)


def is_rank(env: Mapping[str, str]) -> bool:
    """Whether this process was started as a rank: by torchrun, by srun, or alone by a launcher of ours."""
    by_srun = "SLURM_STEP_NUM_TASKS" in env and "SLURM_PROCID" in env
    return by_srun or any(name in env for name in ("RANK", "WORLD_SIZE", STOP_FILE_VARIABLE))


def world_env(world: World) -> dict[str, str]:
    """What torch.distributed and DeepSpeed read. All must be set before `deepspeed.init_distributed`: if one is
    missing, DeepSpeed looks for mpi4py instead and fails far from the cause."""
    return {
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.size),
        "LOCAL_RANK": str(world.local_rank),
        "LOCAL_WORLD_SIZE": str(world.local_size),
        "MASTER_ADDR": world.master_addr,
        "MASTER_PORT": str(world.master_port),
    }
