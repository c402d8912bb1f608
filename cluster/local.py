"""Jobs on this machine: torchrun in a session of its own, which lives on when the process that submitted it is killed.

The supervisor (cluster/supervise.py) is the job. It is found again by its pid and start time, so that a scheduler that
was killed and started again watches the living job instead of starting a second one.
"""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.config import ClusterConfig
from cluster.errors import ClusterError, ClusterMistake
from cluster.job import (
    JobRecord,
    JobSpec,
    JobState,
    attempt_folder,
    cancel_by_file,
    cancelled_file,
    ended_state,
    living_job,
    load_exit,
    load_job,
    log_file,
    read_log,
    submit_lock,
)
from cluster.processes import host_name, is_alive
from cluster.supervise import Orders


def rank_arguments(spec: JobSpec, attempt: Path) -> tuple[str, ...]:
    """What every rank runs, after the Python executable: the command, watched."""
    return ("-m", "cluster.rank", str(attempt), *spec.command)


def local_argv(spec: JobSpec, job_id: str) -> tuple[str, ...]:
    """The command line of a local job. A single rank needs no torchrun, whose start costs several seconds.

    The rendezvous binds port 0, and the ranks meet over the same store: no port is chosen before it is bound, so none
    can be lost to somebody else in between.
    """
    rank = rank_arguments(spec, attempt_folder(spec.folder, job_id))
    if spec.world_size == 1:
        return (spec.python, *rank)
    return (
        spec.python,
        "-m",
        "torch.distributed.run",
        "--nnodes=1",
        f"--nproc-per-node={spec.processes_per_node}",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0",
        f"--rdzv-id={job_id}",
        "--local-addr=127.0.0.1",
        "--max-restarts=0",
        *rank,
    )


@dataclass(frozen=True)
class LocalLauncher:
    config: ClusterConfig

    def submit(self, spec: JobSpec) -> JobRecord:
        if spec.nodes != 1:
            raise ClusterMistake(
                f"cluster.nodes={spec.nodes}: the local launcher has one machine; set cluster.launcher to slurm or "
                "ray, or raise cluster.processes_per_node instead"
            )
        with submit_lock(spec.folder) as lock:
            return living_job(spec.folder, self) or start(spec, lock)

    def state(self, record: JobRecord) -> JobState:
        code = load_exit(record)
        if code is None and record.handle["host"] != host_name():
            return JobState.UNKNOWN  # a process of another machine cannot be seen from here
        if code is None and is_alive(int(record.handle["pid"]), record.handle["started"]):
            return JobState.RUNNING
        # It may have ended between the two looks; dead without a record means killed, supervisor and all.
        code = load_exit(record) if code is None else code
        return ended_state(1 if code is None else code, cancelled=cancelled_file(record).exists())

    def cancel(self, record: JobRecord) -> None:
        if self.state(record).is_alive:
            cancel_by_file(record)

    def logs(self, record: JobRecord, *, follow: bool = False) -> Iterator[str]:
        return read_log(record.folder, more=lambda: follow and self.state(record).is_alive)


def start(spec: JobSpec, lock: int) -> JobRecord:
    """Starts the supervisor, which takes the lock over, and returns what it recorded."""
    job_id = f"local-{os.urandom(6).hex()}"
    orders = Orders(
        id=job_id,
        name=spec.name,
        folder=str(spec.folder),
        argv=local_argv(spec, job_id),
        world_size=spec.world_size,
        grace_s=spec.grace_s,
        lock=lock,
    )
    with log_file(spec.folder).open("ab") as log:
        started = subprocess.run(
            [spec.python, "-m", "cluster.supervise", orders.to_json()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=spec.workdir,
            env={**os.environ, **spec.env, "HEADRACE_JOB_ID": job_id},
            start_new_session=True,
            pass_fds=(lock,),
            check=False,
        )
    job = load_job(spec.folder)
    if started.returncode != 0 or job is None or job.id != job_id:
        raise ClusterError(f"the job {spec.name} did not start; {log_file(spec.folder)} says why")
    return job
