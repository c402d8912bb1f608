"""Who does the tasks: the workers of a Ray, and until that is up this process.

Plain Ray tasks with files between the stages and a bounded number in flight: nothing of the corpus goes through Ray's
object store, so it can neither fill nor spill. A task answers with its result or a `Failure`, never with an exception,
because what a user can mend should arrive as the one line it is.

Ray takes four seconds to start, three of which it waits. It starts in a thread, while inputs are hashed and the first
tasks are done here.
"""

import contextlib
import errno
import os
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from data_prep.errors import DataError, DataMistake

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A module's function, so that workers import it by name, and its arguments."""
OBJECT_STORE_BYTES = 80_000_000
"""Ray's least is 75 MB; only arguments and records pass through it."""
IN_FLIGHT_PER_WORKER = 2
"""One running, one waiting: a worker never idles, and a kill costs at most these."""
HELP_UNTIL_READY = True
"""Whether this process does tasks until Ray is up. Tests of Ray itself turn it off."""


@dataclass(frozen=True)
class Failure:
    message: str
    is_mistake: bool


class Crew(Protocol):
    """What `build` needs of whoever runs tasks; the seam exists so that tests can run without Ray."""

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        """Runs all calls; yields (place of the call, its result) as they end. Raises DataError on the first failure."""
        ...


def guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The function's result, or a Failure in one line."""
    try:
        return function(*arguments)
    except DataError as error:
        return Failure(str(error), isinstance(error, DataMistake))
    except OSError as error:
        return Failure(cannot_write(error), is_mistake=True)


def cannot_write(error: OSError) -> str:
    """One line for what went wrong in writing; reading turns its errors into DataMistake where it knows the file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space is left where the corpus is written; free some and run again: what was finished is kept"
    where = f" {error.filename}" if error.filename else ""
    return f"cannot write{where}: {error.strerror or error}; make it writable and run again: what was finished is kept"


class Alone:
    """Runs tasks in this process, one after another."""

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        for place, (function, arguments) in enumerate(calls):
            yield place, _checked(guarded(function, arguments))


class RayCrew:
    """Runs tasks on a Ray, which may still be starting."""

    def __init__(self, start: "Starting") -> None:
        self._start = start

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        waiting = iter(enumerate(calls))
        while HELP_UNTIL_READY and not self._start.is_ready():
            if (entry := next(waiting, None)) is None:
                return
            place, (function, arguments) = entry
            yield place, _checked(guarded(function, arguments))
        yield from self._run_on_ray(waiting)

    def _run_on_ray(self, waiting: Iterator[tuple[int, Call]]) -> Iterator[tuple[int, Any]]:
        workers = self._start.num_workers()
        import ray

        remote = ray.remote(num_cpus=1, max_retries=3)(guarded)
        running: dict[Any, int] = {}
        try:
            while True:
                while len(running) < workers * IN_FLIGHT_PER_WORKER and (entry := next(waiting, None)) is not None:
                    place, (function, arguments) = entry
                    running[remote.remote(function, arguments)] = place
                if not running:
                    return
                for reference in ray.wait(list(running), num_returns=1)[0]:
                    place = running.pop(reference)
                    try:
                        result = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        raise DataError(f"a task failed: {str(error).strip().splitlines()[-1]}") from error
                    yield place, _checked(result)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _checked(result: Any) -> Any:
    if isinstance(result, Failure):
        raise DataMistake(result.message) if result.is_mistake else DataError(result.message)
    return result


@contextlib.contextmanager
def hired(workers: int | None) -> Iterator[Crew]:
    """A crew of so many workers, gone afterwards: all cores by default; 0 is this process alone.

    Inside a Ray worker or driver the Ray at hand is used and left running, and so is the cluster that `RAY_ADDRESS`
    names, with as many workers as it has cores. Otherwise a fresh local one is started, even if another runs on the
    machine (one left behind by a kill, say), and nothing of it remains.
    """
    if workers == 0:
        yield Alone()
        return
    with _quiet_environment(), _kept_signals(), _short_folder() as folder, Starting(workers, folder) as start:
        yield RayCrew(start)


class Starting:
    """A Ray that starts in a thread. The thread stays until the end: Linux would end Ray's processes with it."""

    def __init__(self, workers: int | None, folder: str) -> None:
        self._workers = workers
        self._folder = folder
        self._ready, self._over = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._is_ours = False
        self._thread = threading.Thread(target=self._hold, name="ray", daemon=True)

    def is_ready(self) -> bool:
        return self._ready.is_set()

    def num_workers(self) -> int:
        """Waits until Ray is up. Raises DataError if it does not start."""
        import ray

        self._ready.wait()
        if self._error is not None:
            raise DataError(f"Ray did not start: {str(self._error).strip().splitlines()[-1]}") from self._error
        return self._workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def _hold(self) -> None:
        try:
            self._init()
        except BaseException as error:
            self._error = error
        self._ready.set()
        self._over.wait()

    def _init(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own deprecations are no business of the user's
            import ray

            if ray.is_initialized():
                return
            self._is_ours = True
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
            if os.environ.get("RAY_ADDRESS"):
                ray.init(**quiet)
                return
            self._workers = self._workers or len(os.sched_getaffinity(0))
            ray.init(
                address="local",
                num_cpus=self._workers,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=self._folder,
                **quiet,
            )

    def __enter__(self) -> "Starting":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ready.wait()
        if self._is_ours:
            import ray

            ray.shutdown()
        self._over.set()
        self._thread.join()


@contextlib.contextmanager
def _quiet_environment() -> Iterator[None]:
    """What Ray reads from the environment. Ray also leaves variables of its own behind; both are gone afterwards."""
    before = os.environ.copy()
    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        TOKENIZERS_PARALLELISM="false",
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _kept_signals() -> Iterator[None]:
    """Ray sets its own SIGTERM handler and leaves it behind; the caller's notice handling must survive a build."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _short_folder() -> Iterator[str]:
    """Ray's sockets lie in it and their paths may have 107 characters, which a long TMPDIR would exceed."""
    base = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="headrace-", dir=base if len(base) < 30 else "/tmp")  # noqa: S108
    try:
        yield folder
    finally:
        shutil.rmtree(Path(folder), ignore_errors=True)
