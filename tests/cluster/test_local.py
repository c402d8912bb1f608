"""Jobs on this machine, for real: found again, never doubled, told to stop, killed, and their exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.config import ClusterConfig
from cluster.errors import ClusterMistake
from cluster.job import JobRecord, JobSpec, JobState, launcher_for, load_exit, load_job, log_file, submit_lock
from cluster.local import local_argv
from cluster.outcome import read_codes
from cluster.processes import boot_id, is_alive, process_start
from tests.labs import wait_for

LOCAL = launcher_for(ClusterConfig())
RANKS = str(Path(__file__).with_name("ranks.py"))
SLEEP = "import os, time; print('pid', os.getpid()); time.sleep(600)"


def job(folder: Path, *command: str, processes: int = 1, grace_s: int = 60) -> JobSpec:
    return JobSpec(name="x", command=command, folder=folder, processes_per_node=processes, grace_s=grace_s)


def ended(record: JobRecord) -> JobState:
    wait_for(lambda: not LOCAL.state(record).is_alive, f"end of {record.id}")
    return LOCAL.state(record)


def rank_pid(folder: Path) -> int:
    """The process of the command that prints its pid, once it has."""
    said = re.compile(r"^pid (\d+)\n", re.MULTILINE)  # the whole line: it comes word by word
    wait_for(lambda: said.search(text(folder)) is not None, "the rank's first words")
    found = said.search(text(folder))
    assert found is not None
    return int(found[1])


def text(folder: Path) -> str:
    return log_file(folder).read_text() if log_file(folder).exists() else ""


def waits_for_lock(pid: int) -> bool:
    """Linux lists those that wait with an arrow: `7: -> FLOCK  ADVISORY  WRITE 4711 ...`."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any("-> FLOCK" in line and str(pid) in line.split() for line in lines)


def gone(pid: int) -> bool:
    return process_start(pid) is None


def test_one_rank_needs_no_torchrun(tmp_path: Path) -> None:
    assert local_argv(replace(job(tmp_path, "-m", "x"), python="py"), "local-1") == (
        ("py", "-m", "cluster.rank", f"{tmp_path}/attempts/local-1", "-m", "x")
    )


def test_several_ranks_get_a_torchrun_that_binds_a_port_of_its_own(tmp_path: Path) -> None:
    argv = local_argv(job(tmp_path, "-m", "x", processes=2), "local-1")
    assert argv[1:3] == ("-m", "torch.distributed.run")
    assert {"--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"} <= set(argv)
    assert argv[-2:] == ("-m", "x")


def test_several_nodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterMistake, match=r"cluster\.nodes=2: the local launcher has one machine"):
        LOCAL.submit(replace(job(tmp_path, "-m", "x"), nodes=2))


@pytest.mark.parametrize(("code", "state"), [(0, JobState.SUCCEEDED), (75, JobState.STOPPED), (3, JobState.FAILED)])
def test_the_rank_s_exit_code_comes_through(tmp_path: Path, code: int, state: JobState) -> None:
    record = LOCAL.submit(job(tmp_path, "-c", f"print('hello'); raise SystemExit({code})"))
    assert load_job(tmp_path) == record
    assert ended(record) is state
    assert json.loads((tmp_path / "exit.json").read_text())["code"] == code
    assert "hello" in list(LOCAL.logs(record))


def test_env_and_folder_reach_the_rank(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    script = "import os; print(os.environ['HEADRACE_JOB_ID'], os.environ['COLOUR'], os.getcwd())"
    record = LOCAL.submit(replace(job(tmp_path, "-c", script), env={"COLOUR": "blue"}, workdir=tmp_path / "here"))
    assert ended(record) is JobState.SUCCEEDED
    assert f"{record.id} blue {tmp_path}/here" in text(tmp_path)


def test_a_living_job_is_found_again_and_a_finished_one_is_not_in_the_way(tmp_path: Path) -> None:
    first = LOCAL.submit(job(tmp_path, "-c", SLEEP))
    assert LOCAL.submit(job(tmp_path, "-c", SLEEP)) == first
    assert LOCAL.state(first) is JobState.RUNNING
    LOCAL.cancel(first)
    assert ended(first) is JobState.CANCELLED
    second = LOCAL.submit(job(tmp_path, "-c", "print('second')"))
    assert second.id != first.id
    assert ended(second) is JobState.SUCCEEDED
    assert LOCAL.state(first) is not JobState.RUNNING


def test_the_job_outlives_a_submitter_that_is_killed(tmp_path: Path) -> None:
    """The submitter dies right after submitting; another process finds the same job and sees its end."""
    script = f"""
import os, signal
from pathlib import Path
from cluster.config import ClusterConfig
from cluster.job import JobSpec, launcher_for
spec = JobSpec(name="x", command=("-c", {SLEEP!r}), folder=Path({str(tmp_path)!r}))
launcher_for(ClusterConfig()).submit(spec)
os.kill(0, signal.SIGKILL)
"""
    died = subprocess.run([sys.executable, "-c", script], check=False, start_new_session=True, timeout=60)
    assert died.returncode == -signal.SIGKILL
    pid = rank_pid(tmp_path)
    record = LOCAL.submit(job(tmp_path, "-c", SLEEP))
    assert LOCAL.state(record) is JobState.RUNNING
    LOCAL.cancel(record)
    assert ended(record) is JobState.CANCELLED
    assert gone(pid)
    assert text(tmp_path).count("pid ") == 1


def test_submitting_at_the_same_time_starts_one_job(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from cluster.config import ClusterConfig
from cluster.job import JobSpec, launcher_for
spec = JobSpec(name="x", command=("-c", {SLEEP!r}), folder=Path({str(tmp_path)!r}))
launcher = launcher_for(ClusterConfig())
input()
print(launcher.submit(spec).id)
"""
    submitters = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    with submit_lock(tmp_path):  # held until all of them wait for it, so that they go at the same moment
        for submitter in submitters:
            assert submitter.stdin is not None
            submitter.stdin.write("\n")
            submitter.stdin.flush()
        wait_for(lambda: all(waits_for_lock(submitter.pid) for submitter in submitters), "all submitters at the lock")
    ids = {submitter.communicate(timeout=60)[0] for submitter in submitters}
    record = load_job(tmp_path)
    assert record is not None
    LOCAL.cancel(record)
    assert ended(record) is JobState.CANCELLED
    assert ids == {record.id + "\n"}


def test_killing_the_supervisor_ends_its_ranks_so_that_no_second_job_meets_the_first(tmp_path: Path) -> None:
    record = LOCAL.submit(job(tmp_path, "-c", SLEEP))
    pid = rank_pid(tmp_path)
    os.kill(int(record.handle["pid"]), signal.SIGKILL)
    wait_for(lambda: gone(pid), "end of the rank")
    assert ended(record) is JobState.FAILED


def test_a_rank_that_does_not_stop_is_killed_after_the_grace(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
    record = LOCAL.submit(job(tmp_path, "-c", deaf, grace_s=1))
    pid = rank_pid(tmp_path)
    LOCAL.cancel(record)
    assert ended(record) is JobState.CANCELLED
    wait_for(lambda: gone(pid), "end of the rank")
    assert "not stopped 1 s after the notice: killed" in text(tmp_path)


def test_a_notice_lets_the_rank_save_and_is_no_cancel(tmp_path: Path) -> None:
    script = """
import os, sys, time
from cluster.signals import StopNotice
with StopNotice() as notice:
    print('pid', os.getpid())
    while not notice.requested():
        time.sleep(0.02)
time.sleep(1.5)   # a save, during which the notice comes a second time, as SIGTERM from the launcher
print('saved')
sys.exit(75)
"""
    record = LOCAL.submit(job(tmp_path, "-c", script))
    rank_pid(tmp_path)
    os.kill(int(record.handle["pid"]), signal.SIGTERM)
    assert ended(record) is JobState.STOPPED
    assert "saved" in text(tmp_path)


def test_a_notice_to_a_rank_s_watcher_reaches_a_command_that_has_just_started(tmp_path: Path) -> None:
    """Nor does it end the watcher, who has yet to record how the rank ended."""
    script = f"""
import os, signal, subprocess, sys
from cluster import rank
start = subprocess.Popen
def started(*arguments, **how):
    child = start(*arguments, **how)
    os.kill(os.getpid(), signal.SIGTERM)
    return child
subprocess.Popen = started
sys.exit(rank.main([{str(tmp_path)!r}, "-c", "import time; time.sleep(600)"]))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 143
    assert read_codes(tmp_path) == {0: 143}


def test_another_process_with_the_same_pid_is_not_the_job(tmp_path: Path) -> None:
    own = process_start(os.getpid())
    assert own is not None
    assert own.startswith(boot_id())
    assert is_alive(os.getpid(), own)
    assert not is_alive(os.getpid(), own + "0")
    handle = {"host": os.uname().nodename, "pid": str(os.getpid()), "started": own + "0"}
    record = JobRecord(launcher="local", id="a", name="x", folder=tmp_path, submitted_at=0, handle=handle)
    assert LOCAL.state(record) is JobState.FAILED
    assert LOCAL.state(replace(record, handle={**handle, "started": own})) is JobState.RUNNING
    assert LOCAL.state(replace(record, handle={**handle, "host": "elsewhere"})) is JobState.UNKNOWN


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    wait_for(lambda: process_start(child.pid) is None, "the child's end, seen without reaping it")
    child.wait()


@pytest.mark.slow
def test_ranks_under_torchrun_stop_together_and_the_slowest_may_finish_its_save(tmp_path: Path) -> None:
    """torchrun would kill the others as soon as one exits with 75, and exit with 1 itself."""
    record = LOCAL.submit(job(tmp_path, RANKS, "until-told", processes=2))
    wait_for(lambda: text(tmp_path).count("sum 3") == 2, "both ranks")
    LOCAL.cancel(record)
    assert ended(record) is JobState.CANCELLED
    assert json.loads((tmp_path / "exit.json").read_text())["code"] == 75
    assert "rank 0 stopped on" in text(tmp_path)
    assert "rank 1 stopped on" in text(tmp_path)
    assert "ChildFailedError" not in text(tmp_path), "to torchrun, a stop on notice is no failure"


@pytest.mark.slow
def test_the_code_of_the_rank_that_failed_first_comes_through_torchrun(tmp_path: Path) -> None:
    record = LOCAL.submit(job(tmp_path, RANKS, "fail", processes=2))
    assert ended(record) is JobState.FAILED
    assert json.loads((tmp_path / "exit.json").read_text())["code"] == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "code", "peer", "state"), [("early", 2, 143, JobState.FAILED), ("early-stopped", 75, 75, JobState.STOPPED)]
)
def test_nobody_waits_at_the_rendezvous_for_a_rank_that_has_ended(
    tmp_path: Path, mode: str, code: int, peer: int, state: JobState
) -> None:
    """In the first case torchrun would kill the peer 30 s later, and it left no record; in the second it waits on."""
    record = LOCAL.submit(job(tmp_path, RANKS, mode, processes=2))
    assert ended(record) is state
    assert load_exit(record) == code
    assert read_codes(record.attempt) == {0: code, 1: peer}
    assert f"rank 1 ends: rank 0 ended with {code} before all ranks had met" in text(tmp_path)
