"""Jobs on Slurm: a batch script made by a pure function, and four short calls of Slurm's own commands.

submit ── sbatch ── batch script (first node)
                      ├── srun ── torchrun (one a node) ── cluster.rank ── command
                      ├── USR1 or TERM: attempts/ID.N/stop, which all ranks watch
                      └── stopped in time: scontrol requeue; else folder/exit.json
"""

import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time

from cluster.batch_body import BODY
from cluster.config import ClusterConfig, SlurmConfig
from cluster.errors import ClusterError, ClusterMistake
from cluster.job import (
    JobRecord,
    JobSpec,
    JobState,
    cancelled_file,
    ended_state,
    living_job,
    load_exit,
    log_file,
    read_log,
    store_job,
    submit_lock,
)

WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
ACTIVE = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"})
TAKEN_AWAY = frozenset({"TIMEOUT", "PREEMPTED", "NODE_FAIL"})
"""The cluster ended the job, which had no time to say so: nothing says that the work itself is wrong."""


def job_comment(folder: Path) -> str:
    """Marks a folder's job in Slurm's queue, so that one is found whose submitter died before it wrote job.json."""
    return f"headrace-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"


def sbatch_flags(spec: JobSpec, config: SlurmConfig) -> tuple[str, ...]:
    """What the job asks of Slurm. The user's own flags come last, where they win."""
    chosen = {
        "partition": config.partition,
        "account": config.account,
        "qos": config.qos,
        "time": config.time_limit_min,
        "gpus-per-node": spec.gpus_per_node or None,
    }
    return (
        f"--job-name={spec.name}",
        f"--comment={job_comment(spec.folder)}",
        f"--nodes={spec.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={config.cpus_per_node or spec.processes_per_node}",
        *(f"--{name}={value}" for name, value in chosen.items() if value is not None),
        "--requeue",
        # A requeued job would otherwise truncate the log of its first stretch.
        "--open-mode=append",
        f"--signal=B:USR1@{config.notice_s}",
        f"--output={str(log_file(spec.folder)).replace('%', '%%')}",
        f"--chdir={spec.workdir}",
        *config.flags,
    )


def batch_script(spec: JobSpec, config: ClusterConfig) -> str:
    """The whole script, the same for the same arguments: what `submit --dry-run` prints and `submit` sends."""
    variables = {
        "folder": str(spec.folder),
        "python": spec.python,
        "nodes": str(spec.nodes),
        "processes_per_node": str(spec.processes_per_node),
    }
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {shlex.quote(flag)}" for flag in sbatch_flags(spec, config.slurm)),
        "",
        *(f"{name}={shlex.quote(value)}" for name, value in variables.items()),
        f"command=({shlex.join(spec.command)})",
        *(f"export {name}={shlex.quote(value)}" for name, value in sorted(spec.env.items())),
        *config.slurm.setup,
        "",
    ]
    return "\n".join(lines) + BODY


def job_state(slurm: str | None, code: int | None, *, cancelled: bool) -> JobState:
    """What Slurm's word (None: it knows no such job) and our own record say together.

    While Slurm still has the job, Slurm is right: a requeued job has run, and its record may be there. Once the job is
    over, our record is right, because Slurm knows only the batch script's end.
    """
    if slurm in WAITING:
        return JobState.PENDING
    if slurm in ACTIVE:
        return JobState.RUNNING
    cancelled = cancelled or slurm == "CANCELLED"
    if code is not None:
        return ended_state(code, cancelled=cancelled)
    if cancelled:
        return JobState.CANCELLED
    if slurm in TAKEN_AWAY:
        return JobState.STOPPED
    return JobState.UNKNOWN if slurm is None else JobState.FAILED


class NoController(ClusterError):
    """No Slurm controller answers from this machine: none is configured here, or it is down, perhaps for a moment."""


NOT_REACHED = re.compile(
    r"could not establish a configuration source|unable to contact slurm controller|"
    r"unable to process configuration file",
    re.IGNORECASE,
)
"""What Slurm's commands say last if they find no controller to ask."""


def no_controller(command: str, said: Sequence[str], slurm_conf: str | None) -> str | None:
    """The one line for it, if what a command said means that no controller was reached. `slurm_conf` is SLURM_CONF."""
    last = next((line for line in said if NOT_REACHED.search(line)), None)
    if last is None:
        return None
    tried = f"SLURM_CONF={slurm_conf}" if slurm_conf else "its default slurm.conf, else DNS, as SLURM_CONF is not set"
    return (
        f"no Slurm controller answers from here: {command} tried {tried}, and says: {last}; submit from a login node "
        "of the cluster, point SLURM_CONF at its slurm.conf, or set cluster.launcher=local"
    )


def call(command: Sequence[str], *, text: str = "") -> str:
    """Runs one of Slurm's commands. Raises ClusterMistake if it is not there, NoController if it reaches none,
    ClusterError saying why if it fails otherwise."""
    import subprocess

    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError:
        raise ClusterMistake(
            f"{command[0]} is not on the PATH: submit from a login node of the Slurm cluster, "
            "or set cluster.launcher=local"
        ) from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{command[0]} gave no answer in 120 s: is the Slurm controller up?") from None
    if done.returncode != 0:
        # Slurm says what was wrong and that it failed in two lines, each with the command's name in front.
        lines = [line.removeprefix(f"{command[0]}: ").removeprefix("error: ") for line in done.stderr.splitlines()]
        if unreached := no_controller(command[0], lines, os.environ.get("SLURM_CONF")):
            raise NoController(unreached)
        raise ClusterError(f"{command[0]}: {'; '.join(filter(None, lines)) or f'exit code {done.returncode}'}")
    return done.stdout


def send(script: str) -> str:
    """Queues the script and returns the job's id."""
    try:
        return call(["sbatch", "--parsable"], text=script).strip().split(";")[0]
    except (ClusterMistake, NoController):
        raise
    except ClusterError as error:
        raise ClusterMistake(f"Slurm refused the job ({error}): see cluster.slurm in the config") from error


def queued(comment: str) -> str | None:
    """The id of this user's job with that comment, if one waits or runs."""
    rows = (line.split(maxsplit=1) for line in call(["squeue", "--me", "-h", "-o", "%A %k"]).splitlines())
    return next((row[0] for row in rows if row[1:] == [comment]), None)


def slurm_word(job_id: str) -> str | None:
    """Slurm's name for the job's state, or None if it does not know the job (any more) or cannot be asked."""
    try:
        return call(["squeue", "-h", "-t", "all", "-j", job_id, "-o", "%T"]).strip() or None
    except ClusterMistake:
        raise
    except ClusterError:
        return None


@dataclass(frozen=True)
class SlurmLauncher:
    config: ClusterConfig

    def submit(self, spec: JobSpec) -> JobRecord:
        with submit_lock(spec.folder):
            if (job := living_job(spec.folder, self)) is not None:
                return job
            job_id = queued(job_comment(spec.folder)) or send(batch_script(spec, self.config))
            record = JobRecord(launcher="slurm", id=job_id, name=spec.name, folder=spec.folder, submitted_at=time())
            store_job(record)
            return record

    def state(self, record: JobRecord) -> JobState:
        word = slurm_word(record.id)
        return job_state(word, load_exit(record), cancelled=cancelled_file(record).exists())

    def cancel(self, record: JobRecord) -> None:
        if not self.state(record).is_alive:
            return
        # First the mark, then the signal: ranks that stop in time must not make the script requeue the job.
        cancelled_file(record).parent.mkdir(parents=True, exist_ok=True)
        cancelled_file(record).touch()
        call(["scancel", record.id])

    def logs(self, record: JobRecord, *, follow: bool = False) -> Iterator[str]:
        # Slurm is asked at most every two seconds: its controller serves the whole cluster.
        return read_log(record.folder, more=lambda: follow and self.state(record).is_alive, poll_s=2)
