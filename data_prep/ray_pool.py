"""The pool of many machines: the workers of a Ray."""

import os
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.crew import IN_FLIGHT_PER_WORKER, Call, guarded
from data_prep.errors import DataError

LOCAL = "local"
OBJECT_STORE_BYTES = 80_000_000
"""Ray's least is 75 MB; only arguments and records pass through it."""


class RayPool:
    """Plain tasks, a bounded number in flight."""

    def __init__(self, workers: int) -> None:
        import ray

        self._ray = ray
        self._most = workers * IN_FLIGHT_PER_WORKER
        self._task = ray.remote(num_cpus=1, max_retries=3)(guarded)
        self._running: dict[Any, int] = {}

    def begin(self, num_tasks: int) -> None:
        pass

    def has_room(self) -> bool:
        return len(self._running) < self._most

    def give(self, place: int, call: Call) -> None:
        self._running[self._task.remote(*call)] = place

    def ended(self, *, block: bool) -> Iterator[tuple[int, Any]]:
        ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=None if block else 0)
        for reference in ended:
            place = self._running.pop(reference)
            try:
                result = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                raise DataError(f"a task failed: {str(error).strip().splitlines()[-1]}") from error
            yield place, result

    def end(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()


@contextmanager
def ray_pool(address: str | None, workers: int | None) -> Iterator[RayPool]:
    """The Ray at hand, the cluster at an address, or a fresh one of this machine that is gone afterwards. Without
    `workers`, as many as it has cores. Raises DataError if it does not start or answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own deprecations are no business of the user's
        import ray

    if ray.is_initialized():
        yield from _pool_of(ray, workers)
        return
    with _quiet_environment(), _kept_signals(), _short_folder() as folder:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address == LOCAL:
            quiet |= {
                "address": LOCAL,
                "num_cpus": workers or len(os.sched_getaffinity(0)),
                "num_gpus": 0,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_temp_dir": folder,
            }
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(**quiet)
        except (ConnectionError, OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            what = "start" if address == LOCAL else f"answer at RAY_ADDRESS={address}"
            said = str(error).strip().splitlines()[-1]
            raise DataError(f"Ray did not {what}: {said}; without RAY_ADDRESS this machine works alone") from error
        try:
            yield from _pool_of(ray, workers)
        finally:
            ray.shutdown()


def _pool_of(ray: Any, workers: int | None) -> Iterator[RayPool]:
    pool = RayPool(workers or max(1, int(ray.cluster_resources().get("CPU", 1))))
    try:
        yield pool
    finally:
        pool.end()


@contextmanager
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


@contextmanager
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


@contextmanager
def _short_folder() -> Iterator[str]:
    """Ray's sockets lie in it and their paths may have 107 characters, which a long TMPDIR would exceed."""
    base = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="headrace-", dir=base if len(base) < 30 else "/tmp")  # noqa: S108
    try:
        yield folder
    finally:
        shutil.rmtree(Path(folder), ignore_errors=True)
