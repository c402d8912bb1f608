"""The pool of one machine: worker processes that come and go with a build, and what becomes of their calls."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from operator import add
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import crew
from data_prep.build import prepare
from data_prep.crew import Call, Crew, Failure
from data_prep.errors import DataError, DataMistake
from data_prep.processes import Processes
from data_prep.verify import verify
from tests.data_prep.corpora import config, files_of, write_inputs
from tests.data_prep.killing import end_session, marked


class FakePool:
    """Answers some of its calls, in any order, whenever it is asked."""

    def __init__(self, draw: random.Random, room: int) -> None:
        self.draw, self.room, self.given = draw, room, list[tuple[int, Call]]()

    def begin(self, num_tasks: int) -> None:
        pass

    def has_room(self) -> bool:
        return len(self.given) < self.room

    def give(self, place: int, call: Call) -> None:
        assert self.has_room()
        self.given.append((place, call))

    def ended(self, *, block: bool) -> Iterator[tuple[int, Any]]:
        self.draw.shuffle(self.given)
        for _ in range(self.draw.randint(int(block), len(self.given))):
            place, (function, arguments) = self.given.pop()
            yield place, crew.guarded(function, arguments)

    def end(self) -> None:
        pass


@given(st.integers(0, 30), st.integers(1, 5), st.booleans(), st.integers())
def test_every_call_is_done_once(num_calls: int, room: int, driver_works: bool, seed: int) -> None:
    crew_ = Crew(FakePool(random.Random(seed), room), driver_works=driver_works)
    done = list(crew_.run([(add, (place, 100)) for place in range(num_calls)]))
    assert sorted(done) == [(place, place + 100) for place in range(num_calls)]


def mistaken() -> None:
    raise DataMistake("sources.a.path: is not there")


@pytest.mark.parametrize("driver_works", [False, True])
def test_the_first_failure_ends_it(driver_works: bool) -> None:
    crew_ = Crew(FakePool(random.Random(0), 2), driver_works=driver_works)
    with pytest.raises(DataMistake, match="is not there"):
        list(crew_.run([(mistaken, ())] * 3))


@pytest.fixture
def two() -> Iterator[Processes]:
    pool = Processes(2)
    pool.begin(10)
    yield pool
    pool.end()


def answers(pool: Processes, calls: list[Call]) -> dict[int, Any]:
    waiting, found = deque(enumerate(calls)), dict[int, Any]()
    while len(found) < len(calls):
        while waiting and pool.has_room():
            pool.give(*waiting.popleft())
        found.update(pool.ended(block=True))
    return found


def meets(folder: str) -> set[int]:
    """Waits for another process that does the same; gives both their numbers."""
    Path(folder, str(os.getpid())).touch()
    while len(met := os.listdir(folder)) < 2:
        time.sleep(0.01)
    return set(map(int, met))


def both(pool: Processes) -> set[int]:
    """The numbers of both workers, which have started."""
    with tempfile.TemporaryDirectory() as folder:
        return set.union(*answers(pool, [(meets, (folder,))] * 2).values())  # one may do both calls, in the end


def test_workers_answer(two: Processes) -> None:
    assert answers(two, [(add, (1, place)) for place in range(9)]) == {place: 1 + place for place in range(9)}
    pids = both(two)
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_a_bug_is_one_line_and_the_worker_goes_on(two: Processes) -> None:
    found = answers(two, [(int, ("x",)), (os.stat, ("/nowhere",)), (add, (1, 2))])
    assert isinstance(found[0], Failure)
    assert found[0].message.startswith("a task failed: ValueError: invalid literal")
    assert not found[0].is_mistake
    assert isinstance(found[1], Failure)
    assert "/nowhere" in found[1].message
    assert found[2] == 3


def test_a_call_that_ends_every_worker_ends_the_build(two: Processes) -> None:
    with pytest.raises(DataError, match="its worker ended with 3, and so did 3 others that were given it"):
        answers(two, [(os._exit, (3,)), (add, (1, 2))])


def test_a_lost_worker_is_replaced_and_its_calls_are_done(two: Processes) -> None:
    pids = both(two)
    os.kill(min(pids), signal.SIGKILL)
    assert answers(two, [(add, (1, place)) for place in range(9)]) == {place: 1 + place for place in range(9)}
    assert both(two) & pids == {max(pids)}


def test_a_terminal_or_slurm_does_not_end_workers(two: Processes) -> None:
    pids = both(two)
    for pid in pids:
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(pid, one)
    assert both(two) == pids


def test_more_than_a_socket_holds_goes_both_ways_at_once(two: Processes) -> None:
    many = "x" * 4_000_000
    assert answers(two, [(str, (many,))] * 9) == dict.fromkeys(range(9), many)


def waits_for(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.01)
    return path


@pytest.mark.timeout(60)
def test_an_idle_worker_takes_what_waits_behind_anothers_call(two: Processes, tmp_path: Path) -> None:
    """The first call ends when the third has, which was given to the same worker."""
    calls: list[Call] = [(waits_for, (f"{tmp_path}/x",)), (add, (1, 1)), (os.mkdir, (f"{tmp_path}/x",)), (add, (2, 2))]
    assert answers(two, calls) == {0: f"{tmp_path}/x", 1: 2, 2: None, 3: 4}
    # The late answer of the first worker, an error as the folder is there, is no one's.
    assert answers(two, [(add, (one, 1)) for one in range(9)]) == {one: one + 1 for one in range(9)}


def test_no_more_workers_than_there_are_tasks() -> None:
    pool = Processes(5)
    pool.begin(1)
    pool.begin(2)
    assert len(pool._workers) == 2
    pool.end()


def test_workers_run_our_code_wherever_they_are_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data_prep").mkdir()
    (tmp_path / "data_prep" / "__init__.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    pool = Processes(1)
    pool.begin(1)
    assert answers(pool, [(add, (1, 2))]) == {0: 3}
    pool.end()


# Whole builds.


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_processes_makes_the_same_bytes(tmp_path: Path, workers: int) -> None:
    write_inputs(tmp_path / "in")
    alone = prepare(config(tmp_path / "in"), tmp_path / "alone", "demo", workers=0)
    made = prepare(config(tmp_path / "in", unit_bytes=4_000), tmp_path / "made", "demo", workers=workers)
    assert made[1] == alone[1]
    assert files_of(made[0]) == files_of(alone[0])


DRIVER = """
import sys
from pathlib import Path
from data_prep.build import prepare
from tests.data_prep.corpora import config
def show(progress):
    print(progress.stage, progress.done, flush=True)
print("end", prepare(config(Path(sys.argv[1]), unit_bytes=4_000), Path(sys.argv[2]), "demo", workers=3, progress=show))
"""


def kill_driver(process: "subprocess.Popen[str]") -> None:
    process.kill()


def kill_worker(process: "subprocess.Popen[str]") -> None:
    for pid in marked(process.pid, "data_prep.worker")[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


KILLS = int(os.environ.get("HEADRACE_KILLS", "3"))
"""How many builds are killed at a random instant; `HEADRACE_KILLS=20 pytest tests/data_prep/test_processes.py`."""


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(KILLS))
def test_killed_at_a_random_instant_it_ends_with_the_same_digest(tmp_path: Path, attempt: int) -> None:
    """kill -9 of the driver and of a worker in one build; no worker outlives the driver."""
    write_inputs(tmp_path / "in")
    alone = prepare(config(tmp_path / "in"), tmp_path / "alone", "demo", workers=0)
    draw = random.Random(f"kill {attempt}")
    kills: list[Callable[[subprocess.Popen[str]], None] | None] = [kill_driver, kill_worker, kill_driver]
    sessions = []
    try:
        for kill in (*kills, None):
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", DRIVER, str(tmp_path / "in"), str(tmp_path)],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": os.getcwd()},
                start_new_session=True,
            )
            sessions.append(process.pid)
            assert process.stdout is not None
            for _ in zip(range(draw.randint(1, 60)), process.stdout, strict=False):
                pass
            if kill:
                kill(process)
            process.stdout.read()
            code = process.wait()
            process.stdout.close()
            assert code == 0 or kill is kill_driver, "a lost worker must not end a build"
            while left := marked(process.pid, "data_prep.worker"):
                time.sleep(0.01)  # they see the socket close; the test's timeout is the bound
                assert code != 0, f"{left} were left behind"
        folder, manifest = prepare(config(tmp_path / "in", unit_bytes=4_000), tmp_path, "demo")
        assert manifest == alone[1]
        assert files_of(folder) == files_of(alone[0])
        assert verify(folder) == ()
    finally:
        for session in sessions:
            end_session(session)
