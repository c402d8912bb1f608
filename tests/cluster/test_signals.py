"""A notice to stop raises a flag, by whatever way it comes, and never kills who listens."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.signals import NOTICE_SIGNALS, STOP_FILE_VARIABLE, StopNotice, agreed


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A told process ignores notices for good; the test process is not on its way out."""
    before = {number: signal.getsignal(number) for number in NOTICE_SIGNALS}
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


def test_a_file_is_a_notice_and_is_looked_for_only_now_and_then(tmp_path: Path) -> None:
    with StopNotice({STOP_FILE_VARIABLE: str(tmp_path / "stop")}, poll_s=0.2) as notice:
        assert not notice.requested()
        (tmp_path / "stop").touch()
        assert not notice.requested(), "a look at each step would load a shared file system"
        time.sleep(0.21)
        assert notice.requested()
        assert notice.reason == "stop file"
        (tmp_path / "stop").unlink()
        assert notice.requested(), "a notice is never taken back"


def test_a_file_made_by_hand_is_a_notice_beside_the_launchers(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in NOTICE_SIGNALS]
    with StopNotice({STOP_FILE_VARIABLE: str(tmp_path / "launcher")}, files=[tmp_path / "hand"], poll_s=0) as notice:
        assert not notice.requested()
        (tmp_path / "hand").touch()
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


@pytest.mark.parametrize("flags", [(False, False, False), (True, False, False), (True, True, True)])
def test_all_ranks_stop_or_none(flags: tuple[bool, ...]) -> None:
    answers = {agreed(flag, lambda flag: any(flags)) for flag in flags}
    assert answers == {any(flags)}


def test_asking_is_cheap_enough_for_every_step() -> None:
    with StopNotice({STOP_FILE_VARIABLE: "/nonexistent/stop"}) as notice:
        began = time.perf_counter()
        for _ in range(10_000):
            notice.requested()
        assert (time.perf_counter() - began) / 10_000 < 20e-6
