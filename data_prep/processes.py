"""The pool of one machine: processes that run `data_prep.worker`, each at the other end of a socket.

Not multiprocessing's: its forks inherit locks that nobody will open and its other ways run the caller's script anew,
and both leave workers behind when the caller is killed. Not Ray either: to start and end one takes eight seconds of
CPU, and a third of that again for its own processes beside the work, which is much of what a machine of few cores has.
"""

import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from data_prep.crew import IN_FLIGHT_PER_WORKER, Call
from data_prep.errors import DataError

MOST_LOSSES = 3
"""A call whose worker died is given to another so many times, as Ray does by default."""
OUR_PATH = str(Path(__file__).parents[1])


@dataclass
class Given:
    place: int
    call: Call
    losses: int = 0
    """How many workers died of it."""
    is_stolen: bool = False
    """Whether a second worker was given it."""
    is_answered: bool = False


@dataclass
class Worker:
    process: "subprocess.Popen[bytes]"
    connection: Connection
    given: deque[Given] = field(default_factory=deque)
    """What it was given and has not answered: it answers in order."""


class Processes:
    """Up to so many worker processes, which start with the first calls expected."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._workers: list[Worker] = []

    def begin(self, num_tasks: int) -> None:
        for _ in range(min(self._most, num_tasks) - len(self._workers)):
            self._workers.append(_started())

    def has_room(self) -> bool:
        return any(len(one.given) < IN_FLIGHT_PER_WORKER for one in self._workers)

    def give(self, place: int, call: Call) -> None:
        self._send(min(self._workers, key=lambda one: len(one.given)), Given(place, call))

    def ended(self, *, block: bool) -> Iterator[tuple[int, Any]]:
        self._steal()
        by_connection: dict[Any, Worker] = {one.connection: one for one in self._workers if one.given}
        for connection in wait(by_connection, None if block else 0):
            worker = by_connection[connection]
            try:
                result = worker.connection.recv()
            except (EOFError, OSError):
                self._replace(worker)
                continue
            one = worker.given.popleft()
            if not one.is_answered:
                one.is_answered = True
                yield one.place, result

    def end(self) -> None:
        for worker in self._workers:
            worker.process.kill()  # what it does can be done again from its beginning, and only so
        for worker in self._workers:
            worker.process.wait()
            worker.connection.close()
        self._workers.clear()

    def _steal(self) -> None:
        """Gives idle workers what waits behind another's call, which may be long. What is on its way cannot be taken
        back, so that one will do it too: it makes the same files of the same bytes, and its answer is dropped."""
        for idle in [one for one in self._workers if not one.given]:
            behind = (one for worker in self._workers for one in [*worker.given][1:])
            waiting = next((one for one in behind if not one.is_stolen), None)
            if waiting is None:
                return
            waiting.is_stolen = True
            self._send(idle, waiting)

    def _send(self, worker: Worker, one: Given) -> None:
        worker.given.append(one)
        try:
            worker.connection.send(one.call)
        except OSError:
            self._replace(worker)

    def _replace(self, dead: Worker) -> None:
        """Starts another worker in place of a dead one and gives it what that had. Raises DataError if its call has
        ended several workers."""
        dead.connection.close()
        status = dead.process.wait()
        self._workers.remove(dead)
        culprit = dead.given[0]
        culprit.losses += 1
        if culprit.losses > MOST_LOSSES and not culprit.is_answered:
            raise DataError(f"a task failed: {_how(status)}, and so did {MOST_LOSSES} others that were given it")
        worker = _started()
        self._workers.append(worker)
        for again in dead.given:
            if not again.is_answered:
                self._send(worker, again)


def _started() -> Worker:
    ours, theirs = socket.socketpair()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (OUR_PATH, os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with theirs:
        process = subprocess.Popen(
            # -P: the same code as here, whatever lies in the working folder
            [sys.executable, "-P", "-m", "data_prep.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the caller's may carry a record
            env=environment,
        )
    return Worker(process, Connection(ours.detach()))


def _how(status: int) -> str:
    if status == -signal.SIGKILL:
        return "the system ended its worker (SIGKILL), which it does when memory runs out: give fewer --workers"
    return f"its worker ended with signal {-status}" if status < 0 else f"its worker ended with {status}"
