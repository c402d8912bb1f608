"""Where a run's processes start: launcher, nodes, and what Slurm or Ray must be told."""

from dataclasses import dataclass, field
from typing import Literal

CONFIG = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    __pydantic_config__ = CONFIG

    partition: str | None = None
    """`--partition`; None leaves the choice to the cluster."""
    account: str | None = None
    """`--account` that is charged; None is the user's default."""
    qos: str | None = None
    """`--qos`; None is the account's default."""
    time_limit_min: int | None = None
    """`--time` in minutes of one stretch; a run that needs longer saves, is requeued and goes on. None: the partition's
    default."""
    notice_s: int = 180
    """Seconds before the time limit at which the notice to stop comes: at least twice (one step + one save). Slurm
    checks once a minute, so it may come up to 60 s early."""
    cpus_per_node: int | None = None
    """CPUs for all ranks of a node together, data loading included. None: one for each rank."""
    flags: tuple[str, ...] = ()
    """More sbatch flags as they are, such as `--exclusive` or `--constraint=h200`; they win over the ones above."""
    setup: tuple[str, ...] = ()
    """Shell lines that run on the first node before the ranks start, such as `module load cuda`."""


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    __pydantic_config__ = CONFIG

    address: str | None = None
    """The dashboard of the running cluster, such as `http://head:8265`. It is never guessed: on a shared machine a
    guess may find somebody else's cluster."""
    cpus_per_node: int = 1
    """CPUs that Ray sets aside on each node for all of its ranks together."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    __pydantic_config__ = CONFIG

    launcher: Literal["local", "slurm", "ray"] = "local"
    """Who starts the processes."""
    nodes: int = 1
    """Machines. The local launcher has one."""
    processes_per_node: int = 1
    """Ranks on each node; on GPU nodes one for each GPU."""
    gpus_per_node: int = 0
    """GPUs that Slurm or Ray sets aside on each node; the local launcher takes what is there."""
    grace_s: int = 120
    """Seconds that a job has to save after it was told to stop by `cancel` (local, Ray); then it is killed. On Slurm
    the site's KillWait counts."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    ray: RayConfig = field(default_factory=RayConfig)
