"""Jobs on a running Ray cluster, through its Jobs API.

    submit ── Jobs API ── cluster.ray_entry (driver, on the head)
                            ├── node 1: torchrun ── cluster.rank ── command
                            └── node 2: torchrun ── cluster.rank ── command

Ray runs a job once; who submits it decides whether to submit it again. The job runs with the same Python and in the
same folder as the submitter: all nodes are expected to share them.
"""

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from cluster.config import ClusterConfig
from cluster.errors import ClusterError, ClusterMistake
from cluster.job import (
    JobRecord,
    JobSpec,
    JobState,
    cancel_by_file,
    cancelled_file,
    ended_state,
    living_job,
    load_exit,
    log_file,
    read_log,
    store_job,
    submit_lock,
)
from cluster.ray_entry import Orders

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def entrypoint(spec: JobSpec, config: ClusterConfig, job_id: str) -> str:
    """The shell command that Ray runs on its head: `submit --dry-run` prints it."""
    orders = Orders(
        id=job_id,
        folder=str(spec.folder),
        python=spec.python,
        workdir=str(spec.workdir),
        command=spec.command,
        env=dict(spec.env),
        nodes=spec.nodes,
        processes_per_node=spec.processes_per_node,
        cpus_per_node=config.ray.cpus_per_node,
        gpus_per_node=spec.gpus_per_node,
        grace_s=spec.grace_s,
    )
    command = shlex.join([spec.python, "-m", "cluster.ray_entry", orders.to_json()])
    return f"cd {shlex.quote(str(spec.workdir))} && exec {command}"


def job_state(ray: str | None, code: int | None, *, cancelled: bool) -> JobState:
    """What Ray's word (None: it knows no such job, or gives no answer) and our own record say together. Ray never runs
    a job twice, so our record is final."""
    if code is not None:
        return ended_state(code, cancelled=cancelled)
    if ray == "PENDING":
        return JobState.PENDING
    if ray == "RUNNING":
        return JobState.RUNNING
    if ray == "STOPPED" or (cancelled and ray is not None):
        return JobState.CANCELLED
    return JobState.UNKNOWN if ray is None else JobState.FAILED


def auth_headers(env: Mapping[str, str], home: Path) -> dict[str, str]:
    """The cluster's token, from where Ray's own tools look for it; none if there is none.

    Ray's client sends it only if RAY_AUTH_MODE says so, while `ray start` asks for one as soon as it finds one; and it
    reads it once in the life of a process.
    """
    token = env.get("RAY_AUTH_TOKEN")
    path = Path(env.get("RAY_AUTH_TOKEN_PATH") or home / ".ray" / "auth_token")
    if token is None and path.exists():
        token = path.read_text()
    return {"authorization": f"Bearer {token.strip()}"} if token else {}


def connect(address: str) -> "JobSubmissionClient":
    """Raises ClusterMistake if no Ray cluster answers there."""
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address, headers=auth_headers(os.environ, Path.home()))
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise ClusterMistake(
            f"no Ray cluster answers at cluster.ray.address={address} ({said}): give its dashboard, such as "
            "http://head:8265, of a cluster started with `ray start --head`"
        ) from error


def ray_word(record: JobRecord) -> str | None:
    """Ray's name for the job's state, or None if it does not know the job or cannot be asked."""
    try:
        return str(connect(record.handle["address"]).get_job_status(record.id).value)
    except (ClusterError, RuntimeError, OSError):
        return None


@dataclass(frozen=True)
class RayLauncher:
    config: ClusterConfig

    def submit(self, spec: JobSpec) -> JobRecord:
        address = self.config.ray.address
        if address is None:
            raise ClusterMistake("cluster.launcher=ray needs cluster.ray.address, such as http://head:8265")
        with submit_lock(spec.folder):
            if (job := living_job(spec.folder, self)) is not None:
                return job
            client = connect(address)
            job_id = f"headrace-{os.urandom(6).hex()}"
            record = JobRecord(
                launcher="ray",
                id=job_id,
                name=spec.name,
                folder=spec.folder,
                submitted_at=time(),
                handle={"address": address},
            )
            # Recorded before it is sent, since the id is ours: killed in between, Ray does not know the job, and the
            # next submit sends another.
            store_job(record)
            try:
                client.submit_job(
                    entrypoint=entrypoint(spec, self.config, job_id),
                    submission_id=job_id,
                    metadata={"name": spec.name},
                )
            except RuntimeError as error:
                raise ClusterMistake(f"Ray refused the job: {str(error).splitlines()[0]}") from error
            return record

    def state(self, record: JobRecord) -> JobState:
        code = load_exit(record)
        word = ray_word(record) if code is None else None
        # The record may have been written between the two looks.
        code = load_exit(record) if code is None else code
        return job_state(word, code, cancelled=cancelled_file(record).exists())

    def cancel(self, record: JobRecord) -> None:
        # Not by Ray's stop_job, which kills three seconds after its SIGTERM: the driver enforces our own grace.
        state = self.state(record)
        if state.is_alive:
            cancel_by_file(record)
        if state is JobState.PENDING:
            self._stop(record)

    def _stop(self, record: JobRecord) -> None:
        """Takes away a job that has no driver yet to read the notice."""
        try:
            connect(record.handle["address"]).stop_job(record.id)
        except RuntimeError as error:
            raise ClusterError(f"Ray could not stop {record.id}: {str(error).splitlines()[0]}") from error

    def logs(self, record: JobRecord, *, follow: bool = False) -> Iterator[str]:
        yield from read_log(record.folder, more=lambda: follow and self.state(record).is_alive, poll_s=1)
        if not log_file(record.folder).exists():
            # The driver did not get as far as its log: Ray knows why.
            yield from str(connect(record.handle["address"]).get_job_logs(record.id)).splitlines()
