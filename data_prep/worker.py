"""A worker of `processes`: `python -m data_prep.worker SOCKET PARENT`, SOCKET a descriptor that it inherits.

It reads a call, answers, and ends with its parent, whatever ends that. What a terminal or Slurm sends to the whole
group is for the parent to act on.
"""

import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from data_prep.crew import Failure, guarded

PR_SET_PDEATHSIG = 1


def main(descriptor: int, parent: int) -> None:
    import ctypes

    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(one, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    with Connection(descriptor) as connection:
        while True:
            try:
                function, arguments = connection.recv()
            except EOFError:
                return
            connection.send(_answer(function, arguments))


def _answer(function: Any, arguments: tuple[Any, ...]) -> Any:
    try:
        return guarded(function, arguments)
    except Exception as error:  # a bug, whose place should be seen
        traceback.print_exc()
        return Failure(f"a task failed: {type(error).__name__}: {error}", is_mistake=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
