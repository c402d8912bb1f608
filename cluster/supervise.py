"""The process that a local job consists of, seen from outside: it outlives the submitter and records the end.

    submit ── supervise (own session, detached) ── torchrun ── cluster.rank ── command
                 ├── folder/job.json   before anything starts
                 └── folder/exit.json  after everything ended

`python -m cluster.supervise '{...}'` takes one JSON object with the fields of `Orders`.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from cluster.job import JobRecord, attempt_folder, stop_file, store_exit, store_job
from cluster.outcome import read_outcome
from cluster.processes import dies_with_parent, host_name, process_start, shell_code
from cluster.signals import NOTICE_SIGNALS

POLL_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What submit hands over."""

    id: str
    name: str
    folder: str
    argv: tuple[str, ...]
    world_size: int
    grace_s: int
    lock: int
    """An open file descriptor that holds the folder's lock. The lock goes with it from the submitter to this process,
    which drops it when job.json is stored; so the submitter may die in between, and still no second job can start."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def detach() -> None:
    """Leaves the submitter. It returns only in the grandchild; the process that the submitter waits for ends as soon as
    the grandchild calls `confirm` or dies, so that to the submitter "it has ended" means "job.json is there"."""
    reads, writes = os.pipe()
    if os.fork():
        os.close(writes)
        os._exit(0 if os.read(reads, 1) else 1)
    os.close(reads)
    os.set_inheritable(writes, False)
    _CONFIRM.append(writes)


_CONFIRM: list[int] = []


def confirm() -> None:
    os.write(_CONFIRM.pop(), b".")


def this_process() -> Mapping[str, str]:
    """Names this very process, for as long as it lives and afterwards."""
    started = process_start(os.getpid())
    assert started is not None
    return {"host": host_name(), "pid": str(os.getpid()), "started": started}


def pass_on_notices(attempt: Path) -> None:
    """A signal becomes the stop file, which all ranks watch. To be called before anybody can know this process."""

    def notice(number: int, frame: FrameType | None) -> None:
        stop_file(attempt).touch()

    for number in NOTICE_SIGNALS:
        signal.signal(number, notice)


def run(orders: Orders) -> int:
    """Starts the job's processes, enforces the grace after a notice, and returns the job's exit code."""
    folder = Path(orders.folder)
    attempt = attempt_folder(folder, orders.id)
    child = subprocess.Popen(orders.argv, preexec_fn=dies_with_parent())
    ended = threading.Event()

    def end_after_grace() -> None:
        while not stop_file(attempt).exists():
            if ended.wait(POLL_S):
                return
        if not ended.wait(orders.grace_s):
            print(f"headrace: not stopped {orders.grace_s} s after the notice: killed", flush=True)
            child.kill()  # and with it, one after the other, all that die with their parent

    threading.Thread(target=end_after_grace, daemon=True).start()
    code = shell_code(child.wait())
    ended.set()
    return read_outcome(attempt, world_size=orders.world_size, launcher_code=code)


def main(arguments: Sequence[str]) -> int:
    values = json.loads(arguments[0])
    orders = Orders(**{**values, "argv": tuple(values["argv"])})
    detach()
    folder = Path(orders.folder)
    attempt = attempt_folder(folder, orders.id)
    attempt.mkdir(parents=True)
    pass_on_notices(attempt)
    store_job(
        JobRecord(
            launcher="local",
            id=orders.id,
            name=orders.name,
            folder=folder,
            submitted_at=time.time(),
            handle=this_process(),
        )
    )
    fcntl.flock(orders.lock, fcntl.LOCK_UN)
    os.close(orders.lock)
    confirm()
    print(f"headrace: job {orders.id} starts", flush=True)
    code = run(orders)
    print(f"headrace: job {orders.id} ended with {code}", flush=True)
    store_exit(folder, orders.id, code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
