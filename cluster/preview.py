"""What `submit` would send, as text: the pure half of each launcher, for `submit --dry-run`."""

import shlex
from collections.abc import Callable, Mapping

from cluster.config import ClusterConfig
from cluster.job import JobSpec

JOB_ID = "JOB"
"""Stands where the id of the real job would."""


def preview(spec: JobSpec, config: ClusterConfig) -> str:
    """The batch script, the entrypoint or the command line, whichever the config's launcher makes of the job."""
    return PREVIEWS[config.launcher](spec, config)


def _slurm(spec: JobSpec, config: ClusterConfig) -> str:
    from cluster.slurm import batch_script

    return batch_script(spec, config)


def _ray(spec: JobSpec, config: ClusterConfig) -> str:
    from cluster.ray_jobs import entrypoint

    return entrypoint(spec, config, JOB_ID)


def _local(spec: JobSpec, config: ClusterConfig) -> str:
    from cluster.local import local_argv

    return shlex.join(local_argv(spec, JOB_ID))


PREVIEWS: Mapping[str, Callable[[JobSpec, ClusterConfig], str]] = {"local": _local, "slurm": _slurm, "ray": _ray}
