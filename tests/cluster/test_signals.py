"""A notice to stop raises a flag, by whatever way it comes, and never kills who listens."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from cluster.signals import NOTICE_SIGNALS, STOP_FILE_VARIABLE, Heard, StopNotice, agreed


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A told process ignores notices for good; the test process is not on its way out."""
    before = {number: signal.getsignal(number) for number in (*NOTICE_SIGNALS, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NOTICE_SIGNALS)
def test_a_signal_is_a_notice(number: signal.Signals) -> None:
    with StopNotice({}) as notice:
        assert not notice.requested()
        os.kill(os.getpid(), number)
        assert notice.requested()
        assert notice.reason == number.name


def test_the_first_ctrl_c_is_a_notice_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopNotice({}, ctrl_c="once") as notice:
        os.kill(os.getpid(), signal.SIGINT)
        assert notice.reason == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before, "not ignored: what hangs on its way out can be interrupted"


def test_of_a_rank_among_others_every_ctrl_c_is_the_one_notice() -> None:
    with StopNotice({}, ctrl_c="always") as notice:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        assert notice.reason == "SIGINT"
    signal.raise_signal(signal.SIGINT)  # torchrun's, to a rank that has saved


def test_ctrl_c_interrupts_where_nobody_asked_for_a_notice_and_is_ignored_where_it_was() -> None:
    with StopNotice({}) as notice, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopNotice({}, ctrl_c="once") as notice:
            signal.raise_signal(signal.SIGINT)
            assert not notice.requested()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_file_is_a_notice_and_is_looked_for_beside_what_goes_on(tmp_path: Path) -> None:
    heard: SimpleQueue[Heard] = SimpleQueue()
    with (
        StopNotice({STOP_FILE_VARIABLE: str(tmp_path / "stop")}, poll_s=0.01) as notice,
        notice.told_to(heard.put),
    ):
        assert not notice.requested()
        (tmp_path / "stop").touch()
        assert heard.get(timeout=30).reason == "stop file"
        assert notice.requested()
        (tmp_path / "stop").unlink()
        assert notice.requested(), "a notice is never taken back"


def test_a_file_that_is_there_when_the_watch_begins_is_a_notice_at_once(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    with StopNotice({}, poll_s=3600) as notice:
        assert not notice.requested()
        notice.watch(tmp_path / "stop")
        assert notice.reason == "stop file"


def test_a_listener_is_told_once_also_of_a_notice_that_came_before_it(tmp_path: Path) -> None:
    heard: list[Heard] = []
    with StopNotice({}, poll_s=3600) as notice:
        os.kill(os.getpid(), signal.SIGUSR1)
        with notice.told_to(heard.append):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert [one.reason for one in heard] == ["SIGUSR1"]
        assert notice.heard == heard[0]


def test_a_file_made_by_hand_is_a_notice_beside_the_launchers(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in NOTICE_SIGNALS]
    with StopNotice({STOP_FILE_VARIABLE: str(tmp_path / "launcher")}, files=[tmp_path / "hand"]) as notice:
        assert not notice.requested()
        (tmp_path / "hand").touch()
        notice.look()
        assert notice.requested()
        assert notice.reason == "stop file"
    for number, handler in zip(NOTICE_SIGNALS, before, strict=True):
        signal.signal(number, handler)
    with StopNotice({}, files=[tmp_path / "nothing"]):
        pass
    assert [signal.getsignal(number) for number in NOTICE_SIGNALS] == before, "no launcher watches over it"


def test_a_rank_that_was_told_survives_a_second_notice_on_its_way_out() -> None:
    with StopNotice({}) as notice:
        os.kill(os.getpid(), signal.SIGTERM)
        assert notice.requested()
    for number in NOTICE_SIGNALS:
        os.kill(os.getpid(), number)


def test_a_rank_that_stopped_by_agreement_survives_its_own_notice_coming_late(tmp_path: Path) -> None:
    with StopNotice({STOP_FILE_VARIABLE: str(tmp_path / "stop")}) as notice:
        assert not notice.requested()
    for number in NOTICE_SIGNALS:
        os.kill(os.getpid(), number)


def test_without_a_notice_or_a_launcher_the_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in NOTICE_SIGNALS]
    with StopNotice({}):
        pass
    assert [signal.getsignal(number) for number in NOTICE_SIGNALS] == before


def test_a_forked_data_loader_still_dies_of_sigterm() -> None:
    script = """
import os, signal, time
from cluster.signals import StopNotice
with StopNotice({}):
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b".")   # Python drops a signal that comes while it sets up the child
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == str(-signal.SIGTERM)


def test_a_childs_signal_is_not_its_parents_notice() -> None:
    """A forked child has the parent's descriptors, and the interpreter's handler writes to them."""
    script = """
import os, queue, signal
from cluster.signals import StopNotice
heard = queue.SimpleQueue()
with StopNotice({}, poll_s=3600) as notice, notice.told_to(heard.put):
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b".")
        while True:
            signal.pause()
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    died_of = -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    requested = notice.requested()
    os.kill(os.getpid(), signal.SIGUSR1)  # comes after whatever the child has written
    print(died_of, requested, heard.get(timeout=30).reason)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [str(int(signal.SIGTERM)), "False", "SIGUSR1"]


def test_a_started_process_does_not_get_the_descriptors() -> None:
    with StopNotice({}) as notice:
        for one in (notice._ours, notice._handlers):
            assert not os.get_inheritable(one.fileno())


def wait_until_it_sleeps(pid: int) -> None:
    """Until a process's main thread has gone to sleep inside a call, and stays there."""
    sleeping: list[str] = []
    while len(sleeping) < 10 or len(set(sleeping[-10:])) > 1 or "State:\tS" not in sleeping[-1]:
        lines = Path(f"/proc/{pid}/task/{pid}/status").read_text().splitlines()
        sleeping.append("".join(line for line in lines if line.startswith(("State:", "voluntary_ctxt_switches:"))))
        time.sleep(0.01)


@pytest.mark.parametrize("way", ["signal", "file"])
def test_a_notice_is_heard_while_the_main_thread_waits_in_a_collective(tmp_path: Path, way: str) -> None:
    """Rank 0 enters a barrier of gloo, which no signal interrupts; rank 1 enters it only once rank 0 has said that it
    was told. Its handler in Python runs only when it has left."""
    script = """
import os, sys, torch.distributed as dist
from pathlib import Path
from cluster.signals import StopNotice
receive = StopNotice._receive
StopNotice._receive = lambda *arguments: (print("handles", flush=True), receive(*arguments))
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
with StopNotice({}, files=(folder / "stop",)) as notice:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    dist.barrier()
    with notice.told_to(lambda heard: print("told", heard.reason, flush=True)):
        if rank == 0:
            print("enters", flush=True)
        else:
            sys.stdin.readline()
        dist.barrier()
        print("leaves", notice.requested(), flush=True)
"""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for rank in range(2)
    ]
    patience = threading.Timer(120, lambda: [one.kill() for one in ranks])
    patience.start()
    waits, late = ranks
    assert waits.stdout is not None
    assert late.stdin is not None
    try:
        assert waits.stdout.readline() == "enters\n"
        wait_until_it_sleeps(waits.pid)
        if way == "signal":
            waits.send_signal(signal.SIGTERM)
        else:
            (tmp_path / "stop").touch()
        assert waits.stdout.readline() == f"told {'SIGTERM' if way == 'signal' else 'stop file'}\n"
        late.stdin.write("go on\n")
        late.stdin.flush()
        if way == "signal":
            assert waits.stdout.readline() == "handles\n"
        assert waits.stdout.readline() == "leaves True\n"
        assert "leaves" in late.communicate(timeout=60)[0]
        assert [one.wait(60) for one in ranks] == [0, 0]
    finally:
        patience.cancel()
        for one in ranks:
            one.kill()
            one.communicate()


@pytest.mark.parametrize("flags", [(False, False, False), (True, False, False), (True, True, True)])
def test_all_ranks_stop_or_none(flags: tuple[bool, ...]) -> None:
    answers = {agreed(flag, lambda flag: any(flags)) for flag in flags}
    assert answers == {any(flags)}
