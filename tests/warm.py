"""Ranks that are there at once: forked from an interpreter that has imported what a rank needs.

    pytest ──> a process that has torch and DeepSpeed ──fork──> launcher ──fork──> rank 0, rank 1, ...

A rank imports for four seconds and then trains for less than one. What is imported alone is shared: each rank joins,
trains, is killed and exits as any other. Of torchrun the launcher has what tests go by: the environment, a rendezvous
that it holds itself, and that one rank's failure ends all; of `cluster.rank`, that a stop on notice is no failure. Tests
of torchrun itself, of the verbs and the drill start it.
"""

import contextlib
import multiprocessing
import os
import resource
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, MutableSequence, Sequence
from pathlib import Path
from typing import Never

from cluster.job import EXIT_STOPPED

ROOT = Path(__file__).parents[1]
GRACE_S = 30
"""Between SIGTERM and SIGKILL to the others when a rank has failed, as torchrun has it."""
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([f"{__name__}_imports"])


class Ranks:
    """One script in one process or as several ranks; to be used like a `Popen` whose output is one text."""

    def __init__(self, words: Sequence[str], ranks: int, file_bytes: int | None = None) -> None:
        """`words`: a script, or `-m` and a module, and its arguments. `file_bytes`: no file may become larger."""
        descriptor, name = tempfile.mkstemp(prefix="ranks-")
        os.close(descriptor)
        self._output, self._written = Path(name), ""
        self.pids = FORKS.Array("i", ranks, lock=False)
        """Of the ranks, once they are started."""
        arguments = (tuple(words), ranks, dict(os.environ), os.getcwd(), self._output, self.pids, file_bytes)
        self._process = FORKS.Process(target=launch, args=arguments)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """As `subprocess` has it: negative if a signal ended the only rank."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Waits for the end; returns what was written, as often as it is called. Raises TimeoutError with it."""
        self._process.join(timeout)
        if self._output.exists():
            self._written = self._output.read_text(errors="replace")
        if self.returncode is None:
            raise TimeoutError(f"{self.pid} has not ended after {timeout} s:\n{self._written}")
        self._output.unlink(missing_ok=True)
        return self._written, None


def launch(
    words: Sequence[str],
    ranks: int,
    environment: dict[str, str],
    folder: str,
    output: Path,
    pids: MutableSequence[int],
    file_bytes: int | None,
) -> None:
    """In the new process: becomes the only rank, or starts the ranks and ends as they do."""
    assert "torch._inductor.compile_fx" in sys.modules, f"{FORKS} keeps to itself what fails while it imports"
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with output.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if ranks == 1:
        pids[0] = os.getpid()
        leave(run(words))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        started = [forked(lambda rank=rank: as_rank(rank, ranks, listening, words)) for rank in range(ranks)]
        pids[:] = started
        port, descriptor = listening.getsockname()[1], listening.detach()
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor)
    code = ended(started)
    del store
    leave(code)


def forked(work: Callable[[], int]) -> int:
    """Does it in a new process of its own session, and returns its pid."""
    if pid := os.fork():
        return pid
    os.setsid()
    return leave(work())


def as_rank(rank: int, ranks: int, listening: socket.socket, words: Sequence[str]) -> int:
    os.environ |= {
        **{"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listening.getsockname()[1])},
        **{"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"},
    }
    listening.close()
    return run(words)


def run(words: Sequence[str]) -> int:
    """Runs the script as `python` would; returns its exit code."""
    module = words[0] == "-m"
    sys.argv = list(words[module:])
    try:
        if module:
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as exit:
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def leave(code: int) -> Never:
    """Ends this process without what the interpreter it was forked from would do at its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ended(pids: Sequence[int]) -> int:
    """Waits for all ranks. The first that fails gives the code, and the others are told to end. Not so behind one that
    has stopped on notice: they stop at the same step, and would hear of a second notice on their way out."""
    left, code, kill_at = set(pids), 0, float("inf")
    while left:
        for pid in sorted(left):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            left.remove(pid)
            found = os.waitstatus_to_exitcode(status)
            if found == EXIT_STOPPED:
                code = code or found
            elif found and code in (0, EXIT_STOPPED):
                code, kill_at = found if found > 0 else 128 - found, time.monotonic() + GRACE_S
                print(f"rank {pids.index(pid)} ended with exitcode: {found}", file=sys.stderr)
                tell(left, signal.SIGTERM)
        if time.monotonic() > kill_at:
            tell(left, signal.SIGKILL)
        time.sleep(0.02)
    return code


def tell(pids: set[int], signal_number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)
