"""Records of jobs, what an exit code means, and that nothing heavy is loaded to plan or to submit."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from cluster.config import ClusterConfig, RayConfig
from cluster.errors import ClusterError, ClusterMistake
from cluster.job import (
    JobRecord,
    JobSpec,
    JobState,
    ended_state,
    launcher_for,
    load_exit,
    load_job,
    log_file,
    read_log,
    store_exit,
    store_job,
)


def record(folder: Path, job_id: str = "local-1", **changes: Any) -> JobRecord:
    values = {
        "launcher": "local",
        "id": job_id,
        "name": "x",
        "folder": folder,
        "submitted_at": 1.5,
        "handle": {"pid": "7"},
    }
    return JobRecord(**{**values, **changes})


def test_a_record_reads_back_equal_also_from_a_moved_folder(tmp_path: Path) -> None:
    store_job(record(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    assert load_job(tmp_path / "b") == record(tmp_path / "b")
    assert load_job(tmp_path / "a") is None


def test_a_torn_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"launcher": "lo')
    with pytest.raises(ClusterError, match=r"job\.json is not JSON"):
        load_job(tmp_path)
    (tmp_path / "job.json").write_text('{"launcher": "local"}')
    with pytest.raises(ClusterError, match=r"job\.json is not a JobRecord"):
        load_job(tmp_path)


def test_the_end_of_an_earlier_job_does_not_count(tmp_path: Path) -> None:
    store_exit(tmp_path, "local-1", 0)
    assert load_exit(record(tmp_path, "local-1")) == 0
    assert load_exit(record(tmp_path, "local-2")) is None


@pytest.mark.parametrize(
    ("code", "cancelled", "state"),
    [
        (0, False, JobState.SUCCEEDED),
        (0, True, JobState.SUCCEEDED),
        (75, False, JobState.STOPPED),
        (75, True, JobState.CANCELLED),
        (1, False, JobState.FAILED),
        (143, True, JobState.CANCELLED),
    ],
)
def test_ended_state(code: int, cancelled: bool, state: JobState) -> None:
    assert ended_state(code, cancelled=cancelled) is state


def test_what_may_yet_run_is_alive() -> None:
    assert {state for state in JobState if state.is_alive} == {JobState.PENDING, JobState.RUNNING}


def test_a_folder_must_mean_the_same_on_every_node() -> None:
    with pytest.raises(AssertionError, match="runs/x"):
        JobSpec(name="x", command=("-c", ""), folder=Path("runs/x"))


def test_the_log_is_read_to_its_end_even_if_the_last_line_has_none(tmp_path: Path) -> None:
    assert list(read_log(tmp_path, more=lambda: False)) == []
    log_file(tmp_path).write_text("one\ntwo")
    assert list(read_log(tmp_path, more=lambda: False)) == ["one", "two"]


def test_following_a_log_shows_what_came_before_the_job_ended(tmp_path: Path) -> None:
    """The writer ends between two looks; its last lines must not be lost, nor a line be cut in two."""
    log = log_file(tmp_path)
    log.write_text("one\ntw")
    asked = iter([True, False])

    def more() -> bool:
        alive = next(asked)
        if not alive:
            log.write_text("one\ntwo\nthree\n")
        return alive

    assert list(read_log(tmp_path, more=more, poll_s=0.01)) == ["one", "two", "three"]


def test_config_refuses_what_it_does_not_know() -> None:
    adapter = TypeAdapter(ClusterConfig)
    assert adapter.validate_python({"launcher": "slurm", "slurm": {"partition": "gpu"}}).slurm.partition == "gpu"
    for wrong in ({"lancher": "local"}, {"launcher": "pbs"}, {"slurm": {"partitions": "gpu"}}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


def test_ray_needs_an_address_and_one_where_ray_answers(tmp_path: Path) -> None:
    spec = JobSpec(name="x", command=("-c", ""), folder=tmp_path)
    with pytest.raises(ClusterMistake, match=r"needs cluster\.ray\.address"):
        launcher_for(ClusterConfig(launcher="ray")).submit(spec)
    nowhere = ClusterConfig(launcher="ray", ray=RayConfig(address="http://127.0.0.1:9"))
    with pytest.raises(ClusterMistake, match=r"no Ray cluster answers at cluster\.ray\.address=http://127\.0\.0\.1:9"):
        launcher_for(nowhere).submit(spec)
    assert load_job(tmp_path) is None


def test_planning_and_submitting_load_nothing_heavy() -> None:
    modules = ["config", "job", "local", "slurm", "ray_jobs", "ray_entry", "world", "signals", "rank", "supervise"]
    script = "".join(f"import cluster.{module}\n" for module in modules) + (
        "import sys; print([name for name in ('torch', 'ray', 'pydantic', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
