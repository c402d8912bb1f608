"""Who am I among how many: from torchrun, srun or alone."""

import pytest

from cluster.errors import ClusterMistake
from cluster.world import World, first_host, is_rank, job_port, world_env, world_from_env

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "12345",
}
SRUN = {
    "SLURM_JOB_ID": "20017",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "node[07-08]",
}


def test_torchrun() -> None:
    expected = World(rank=5, size=8, local_rank=1, local_size=4, master_addr="node1", master_port=12345)
    assert world_from_env(TORCHRUN) == expected


def test_bare_srun_meets_on_the_first_node_at_the_job_s_port() -> None:
    expected = World(rank=3, size=4, local_rank=1, local_size=2, master_addr="node07", master_port=10017)
    assert world_from_env(SRUN) == expected


def test_a_rank_is_told_from_a_command_line() -> None:
    assert is_rank(TORCHRUN)
    assert is_rank(SRUN)
    assert is_rank({"HEADRACE_STOP_FILE": "/attempt/stop"})  # alone, under a launcher of ours
    assert not is_rank({})
    assert not is_rank({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"})  # a batch script


def test_torchrun_wins_over_the_srun_that_it_runs_under() -> None:
    assert world_from_env({**SRUN, **TORCHRUN}).rank == 5


def test_a_batch_script_is_no_step_so_what_it_starts_is_alone() -> None:
    batch = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4"}
    alone = World(rank=0, size=1, local_rank=0, local_size=1, master_addr="127.0.0.1", master_port=0)
    assert world_from_env(batch) == alone
    assert world_from_env({}) == alone
    assert alone.is_main


def test_half_an_environment_is_refused_rather_than_guessed() -> None:
    with pytest.raises(ClusterMistake, match="not LOCAL_RANK, MASTER_PORT: start under torchrun"):
        world_from_env({name: TORCHRUN[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")})


def test_what_deepspeed_needs_is_all_there_and_reads_back_equal() -> None:
    world = world_from_env(SRUN)
    assert {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= world_env(world).keys()
    assert world_from_env(world_env(world)) == world


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("node1", "node1"),
        ("node[1-2]", "node1"),
        ("node[03,05-09],login1", "node03"),
        ("a1,b[2-3]", "a1"),
        ("rack2-gpu[007]", "rack2-gpu007"),
        ("n[1-4]-ib", "n1-ib"),
    ],
)
def test_first_host(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


def test_ports() -> None:
    assert job_port("1") != job_port("2")
    assert all(10000 <= job_port(str(job)) < 30000 for job in (0, 19999, 20000, 123456789))
