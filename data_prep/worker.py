"""A worker of `processes`: `python -m data_prep.worker SOCKET`, SOCKET a descriptor that it inherits.

It reads a call, answers, and ends when the other end of the socket is closed, as it is by whatever ends the parent.
What a terminal or Slurm sends to the whole group is for the parent to act on.

    parent ──calls──> socket ──a thread──> queue ──> this thread ──answers──> socket ──> parent

The thread always reads: two ends that both write more than a socket holds would wait for each other.
"""

import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from data_prep.crew import Call, Failure, guarded


def main(descriptor: int) -> None:
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(one, signal.SIG_IGN)
    connection, calls = Connection(descriptor), SimpleQueue[Call]()
    threading.Thread(target=_read, args=(connection, calls), daemon=True).start()
    while True:
        connection.send(_answer(*calls.get()))


def _read(connection: Connection, calls: "SimpleQueue[Call]") -> None:
    while True:
        try:
            calls.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)  # in the middle of a task: nobody waits for it, and it can be done again from its beginning


def _answer(function: Any, arguments: tuple[Any, ...]) -> Any:
    try:
        return guarded(function, arguments)
    except Exception as error:  # a bug, whose place should be seen
        traceback.print_exc()
        return Failure(f"a task failed: {type(error).__name__}: {error}", is_mistake=False)


if __name__ == "__main__":
    main(int(sys.argv[1]))
