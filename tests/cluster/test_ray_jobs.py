"""Jobs on Ray: what is decided without one, and on a real one of two nodes."""

import json
import shlex
from pathlib import Path

import pytest

from cluster.config import ClusterConfig, RayConfig
from cluster.job import JobRecord, JobSpec, JobState, launcher_for, load_job, log_file
from cluster.ray_entry import Orders, first_port, node_argv
from cluster.ray_jobs import auth_headers, entrypoint, job_state
from tests.labs import wait_for

RANKS = str(Path(__file__).with_name("ranks.py"))


def orders(**changes: object) -> Orders:
    values: dict[str, object] = {
        "id": "headrace-1",
        "folder": "/runs/x",
        "python": "/venv/bin/python",
        "workdir": "/src",
        "command": ("-m", "x"),
        "env": {},
        "nodes": 2,
        "processes_per_node": 4,
        "cpus_per_node": 1,
        "gpus_per_node": 4,
        "grace_s": 9,
    }
    return Orders(**{**values, **changes})  # type: ignore[arg-type]


def test_each_node_gets_its_torchrun() -> None:
    argv = node_argv(orders(), 1, "10.0.0.1", 20500)
    assert argv[:4] == ["/venv/bin/python", "-m", "cluster.node", "/venv/bin/python"]
    assert {"--nnodes=2", "--nproc-per-node=4", "--node-rank=1"} <= set(argv)
    assert {"--master-addr=10.0.0.1", "--master-port=20500"} <= set(argv)
    assert argv[-5:] == ["-m", "cluster.rank", "/runs/x/attempts/headrace-1", "-m", "x"]


def test_a_single_rank_needs_no_torchrun() -> None:
    argv = node_argv(orders(nodes=1, processes_per_node=1), 0, "10.0.0.1", 20500)
    assert "torch.distributed.run" not in argv


def test_the_entrypoint_carries_the_whole_order(tmp_path: Path) -> None:
    spec = JobSpec(name="x", command=("-c", "print('$HOME')"), folder=tmp_path, workdir=Path("/a b"), env={"A": "it's"})
    line = entrypoint(spec, ClusterConfig(ray=RayConfig(cpus_per_node=3)), "headrace-1")
    words = shlex.split(line)
    assert words[:4] == ["cd", "/a b", "&&", "exec"]
    sent = json.loads(words[-1])
    assert (sent["command"], sent["env"], sent["cpus_per_node"]) == (["-c", "print('$HOME')"], {"A": "it's"}, 3)


def test_two_jobs_meet_at_two_ports() -> None:
    ports = {first_port(f"headrace-{job}") for job in range(100)}
    assert len(ports) > 90
    assert all(20000 <= port < 30000 for port in ports)


@pytest.mark.parametrize(
    ("ray", "code", "cancelled", "state"),
    [
        ("PENDING", None, False, JobState.PENDING),
        ("RUNNING", None, False, JobState.RUNNING),
        ("RUNNING", None, True, JobState.RUNNING),
        ("RUNNING", 0, False, JobState.SUCCEEDED),
        ("FAILED", 75, False, JobState.STOPPED),
        ("FAILED", 75, True, JobState.CANCELLED),
        ("FAILED", None, False, JobState.FAILED),
        ("SUCCEEDED", None, False, JobState.FAILED),
        ("STOPPED", None, False, JobState.CANCELLED),
        (None, None, False, JobState.UNKNOWN),
        (None, 0, False, JobState.SUCCEEDED),
    ],
)
def test_job_state(ray: str | None, code: int | None, cancelled: bool, state: JobState) -> None:
    assert job_state(ray, code, cancelled=cancelled) is state


def test_the_token_comes_from_where_ray_s_own_tools_look(tmp_path: Path) -> None:
    assert auth_headers({}, tmp_path) == {}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    (tmp_path / "other").write_text("other")
    assert auth_headers({}, tmp_path) == {"authorization": "Bearer home"}
    assert auth_headers({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}, tmp_path) == {"authorization": "Bearer other"}
    assert auth_headers({"RAY_AUTH_TOKEN": "env"}, tmp_path) == {"authorization": "Bearer env"}


def text(folder: Path) -> str:
    return log_file(folder).read_text() if log_file(folder).exists() else ""


def end(address: str, record: JobRecord) -> JobState:
    launcher = launcher_for(ClusterConfig(launcher="ray", ray=RayConfig(address=address)))
    wait_for(lambda: not launcher.state(record).is_alive, f"end of job {record.id}")
    return launcher.state(record)


@pytest.mark.slow
def test_two_nodes_add_up_and_submitting_again_finds_the_job(tmp_path: Path, ray_address: str) -> None:
    launcher = launcher_for(ClusterConfig(launcher="ray", ray=RayConfig(address=ray_address)))
    go = tmp_path / "go"
    spec = JobSpec(name="x", command=(RANKS, "sum"), folder=tmp_path, nodes=2, env={"RANKS_GO": str(go)})
    record = launcher.submit(spec)
    assert load_job(tmp_path) == record
    assert launcher.submit(spec) == record
    assert launcher.state(record).is_alive
    go.touch()
    assert end(ray_address, record) is JobState.SUCCEEDED
    log = "\n".join(launcher.logs(record, follow=True))
    assert "rank 0 of 2" in log
    assert "rank 1 of 2" in log
    assert log.count("sum 3") == 2


@pytest.mark.slow
def test_a_cancelled_job_lets_the_slowest_rank_save(tmp_path: Path, ray_address: str) -> None:
    launcher = launcher_for(ClusterConfig(launcher="ray", ray=RayConfig(address=ray_address)))
    record = launcher.submit(JobSpec(name="x", command=(RANKS, "until-told"), folder=tmp_path, nodes=2))
    wait_for(lambda: text(tmp_path).count("sum 3") == 2, "both ranks")
    assert launcher.state(record) is JobState.RUNNING
    launcher.cancel(record)
    assert end(ray_address, record) is JobState.CANCELLED
    assert json.loads((tmp_path / "exit.json").read_text())["code"] == 75
    assert "rank 1 stopped on" in text(tmp_path)


@pytest.mark.slow
def test_a_single_rank_that_stops_by_itself(tmp_path: Path, ray_address: str) -> None:
    launcher = launcher_for(ClusterConfig(launcher="ray", ray=RayConfig(address=ray_address)))
    script = "import os, sys; print(os.environ['HEADRACE_JOB_ID'], os.environ['COLOUR'], os.getcwd()); sys.exit(75)"
    spec = JobSpec(name="x", command=("-c", script), folder=tmp_path, env={"COLOUR": "blue"}, workdir=tmp_path)
    record = launcher.submit(spec)
    assert end(ray_address, record) is JobState.STOPPED
    assert f"{record.id} blue {tmp_path}" in text(tmp_path)
