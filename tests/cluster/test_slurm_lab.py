"""Jobs on a real Slurm of two nodes: over both of them, preempted and requeued, cancelled, stopped, refused."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.config import ClusterConfig, SlurmConfig
from cluster.errors import ClusterMistake
from cluster.job import JobRecord, JobSpec, JobState, ended_at, launcher_for, load_exit, load_job, log_file
from tests.labs import wait_for

pytestmark = pytest.mark.slow

RANKS = str(Path(__file__).with_name("ranks.py"))


def config(partition: str = "main") -> ClusterConfig:
    return ClusterConfig(
        launcher="slurm", nodes=2, slurm=SlurmConfig(partition=partition, notice_s=30, time_limit_min=10)
    )


def job(folder: Path, *command: str, nodes: int = 2) -> JobSpec:
    env = {"RANKS_MARK": str(folder / "mark"), "RANKS_GO": str(folder / "go")}
    return JobSpec(name="x", command=command, folder=folder, nodes=nodes, env=env)


def text(folder: Path) -> str:
    return log_file(folder).read_text() if log_file(folder).exists() else ""


def watch(record: JobRecord, meanwhile: Callable[[list[JobState]], None] = lambda states: None) -> list[JobState]:
    """The states that the job goes through until its end. `meanwhile` is given those so far, and may hold the job until
    one has been seen."""
    launcher = launcher_for(config())
    states: list[JobState] = []

    def ended() -> bool:
        state = launcher.state(record)
        if states[-1:] != [state]:
            states.append(state)
        meanwhile(states)
        return not state.is_alive

    wait_for(ended, f"end of job {record.id}")
    return states


@pytest.mark.usefixtures("slurm")
def test_two_nodes_add_up_and_submitting_again_finds_the_job(tmp_path: Path) -> None:
    launcher = launcher_for(config())
    record = launcher.submit(job(tmp_path, RANKS, "sum"))
    assert load_job(tmp_path) == record
    assert launcher.submit(job(tmp_path, RANKS, "sum")) == record

    def once_it_runs(states: list[JobState]) -> None:
        if states[-1] is JobState.RUNNING:
            (tmp_path / "go").touch()

    states = watch(record, once_it_runs)
    assert set(states[:-1]) <= {JobState.PENDING, JobState.RUNNING}
    assert states[-2:] == [JobState.RUNNING, JobState.SUCCEEDED]
    lines = list(launcher.logs(record, follow=True))
    assert {"rank 0 of 2 on node1: sum 3", "rank 1 of 2 on node2: sum 3"} <= set(lines)


@pytest.mark.usefixtures("slurm")
def test_a_preempted_job_saves_goes_back_into_the_queue_and_ends_well(tmp_path: Path) -> None:
    launcher = launcher_for(config("low"))
    record = launcher.submit(job(tmp_path, RANKS, "until-told-once"))
    there, waited = tmp_path / "preempted", tmp_path / "waited"

    def preempt_once(states: list[JobState]) -> None:
        if not there.exists() and states[-1] is JobState.RUNNING and text(tmp_path).count("sum 3") == 2:
            there.touch()
            wrapped = f"while [ ! -e {waited} ]; do sleep 0.1; done"
            words = ("--parsable", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", wrapped)
            subprocess.run(["sbatch", *words], check=True, capture_output=True)
        if states[-2:] == [JobState.RUNNING, JobState.PENDING]:
            waited.touch()
        if waited.exists() and states[-1] is JobState.RUNNING:
            (tmp_path / "go").touch()

    states = watch(record, preempt_once)
    assert states[-4:] == [JobState.RUNNING, JobState.PENDING, JobState.RUNNING, JobState.SUCCEEDED]
    # Both stretches are in one log, and on the first the slower rank could finish its save.
    assert text(tmp_path).count("sum 3") == 4
    assert "rank 1 stopped on" in text(tmp_path)
    first = sorted((tmp_path / "attempts" / f"{record.id}.0").glob("rank-*.json"))
    assert [json.loads(path.read_text())["code"] for path in first] == [75, 75]


@pytest.mark.usefixtures("slurm")
def test_a_cancelled_job_saves_and_is_not_requeued(tmp_path: Path) -> None:
    launcher = launcher_for(config())
    record = launcher.submit(job(tmp_path, RANKS, "until-told"))
    wait_for(lambda: text(tmp_path).count("sum 3") == 2, "both ranks")
    launcher.cancel(record)
    assert watch(record)[-1] is JobState.CANCELLED
    assert load_exit(record) == 75
    assert (ended_at(record) or 0) > record.submitted_at, "in whole seconds, both by this machine's clock"
    assert "rank 1 stopped on" in text(tmp_path)


@pytest.mark.usefixtures("slurm")
def test_a_waiting_job_is_cancelled_without_having_run(tmp_path: Path) -> None:
    launcher = launcher_for(config())
    record = launcher.submit(job(tmp_path, "-c", "pass", nodes=3))
    assert launcher.state(record) is JobState.PENDING
    launcher.cancel(record)
    assert watch(record)[-1] is JobState.CANCELLED
    assert not log_file(tmp_path).exists()


@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize(("code", "state"), [(75, JobState.STOPPED), (3, JobState.FAILED)])
def test_exit_codes_of_a_single_rank(tmp_path: Path, code: int, state: JobState) -> None:
    """75 without a notice is the run's own wish to stop: nobody requeues it."""
    record = launcher_for(config()).submit(job(tmp_path, "-c", f"raise SystemExit({code})", nodes=1))
    assert watch(record)[-1] is state


@pytest.mark.usefixtures("slurm")
def test_a_partition_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ClusterMistake, match="invalid partition specified: nosuch") as caught:
        launcher_for(config("nosuch")).submit(job(tmp_path, RANKS, "sum"))
    assert "\n" not in str(caught.value)
