"""Who does the tasks: this process, and the workers of a pool: processes of this machine, or those of a Ray.

Plain tasks with files between the stages and a bounded number in flight: nothing of the corpus goes through a pipe or
through Ray's object store, so neither can fill. A task answers with its result or a `Failure`, never with an exception,
because what a user can mend should arrive as the one line it is.
"""

import errno
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from data_prep.errors import DataError, DataMistake

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A module's function, so that workers import it by name, and its arguments."""
IN_FLIGHT_PER_WORKER = 2
"""One running, one waiting: a worker never idles, and a kill costs at most these."""
FEW_WORKERS = 4
"""Up to so many, this process is one of them: a core that only waits is much of few. More would wait for it."""


@dataclass(frozen=True)
class Failure:
    message: str
    is_mistake: bool


class Pool(Protocol):
    """Workers that take calls."""

    def begin(self, num_tasks: int) -> None:
        """Calls workers for about so many tasks to come."""
        ...

    def has_room(self) -> bool:
        """Whether a call can be given."""
        ...

    def give(self, place: int, call: Call) -> None: ...

    def ended(self, *, block: bool) -> Iterator[tuple[int, Any]]:
        """(place, result) of calls that have ended; waits for one if told to `block`. Raises DataError if a call was
        lost several times."""
        ...

    def end(self) -> None:
        """Lets the workers go; may take place in the background. What they are doing is given up."""
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


class Crew:
    """This process and a pool; without one, this process alone."""

    def __init__(self, pool: Pool | None = None, *, driver_works: bool = True) -> None:
        self._pool = pool
        self._driver_works = driver_works

    def expect(self, num_tasks: int) -> None:
        """Says how many tasks there will be, about, so that workers can be called: they need a second."""
        if self._pool is not None:
            self._pool.begin(num_tasks)

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        """Runs all calls; yields (place of the call, its result) as they end. Raises DataError on the first failure."""
        waiting, running = deque(enumerate(calls)), 0
        while waiting or running:
            while waiting and self._pool is not None and self._pool.has_room():
                self._pool.give(*waiting.popleft())
                running += 1
            works = bool(waiting) and self._driver_works
            if works:
                place, (function, arguments) = waiting.popleft()
                yield place, _checked(guarded(function, arguments))
            assert works or running, "nobody does tasks: expect() was not called"
            if running and self._pool is not None:
                for place, result in self._pool.ended(block=not works):
                    running -= 1
                    yield place, _checked(result)

    def dismiss(self) -> None:
        """No more calls will come."""
        if self._pool is not None:
            self._pool.end()


def _checked(result: Any) -> Any:
    if isinstance(result, Failure):
        raise DataMistake(result.message) if result.is_mistake else DataError(result.message)
    return result


@contextmanager
def hired(workers: int | None) -> Iterator[Crew]:
    """A crew of so many workers, gone afterwards: all cores by default; 0 is this process alone.

    On one machine they are processes. Inside a Ray worker or driver the Ray at hand is used and left running, and so is
    the cluster that `RAY_ADDRESS` names, with as many workers as it has cores. `RAY_ADDRESS=local` is, as elsewhere
    with Ray, a fresh one for this build, even if another runs on the machine; nothing of it remains.
    """
    if workers == 0:
        yield Crew()
        return
    address = os.environ.get("RAY_ADDRESS")
    if address or ("ray" in sys.modules and sys.modules["ray"].is_initialized()):
        from data_prep.ray_pool import ray_pool

        with ray_pool(address, workers) as pool:
            yield Crew(pool, driver_works=False)
        return
    from data_prep.processes import Processes

    workers = workers or len(os.sched_getaffinity(0))
    driver_works = workers <= FEW_WORKERS
    processes = Processes(workers - driver_works)
    try:
        yield Crew(processes, driver_works=driver_works)
    finally:
        processes.end()
