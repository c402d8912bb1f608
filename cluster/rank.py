"""Runs one rank and records how it really ended: `python -m cluster.rank ATTEMPT ARGUMENTS...`

Three things stand between a rank's exit code and the job's record, and this small process, one for each rank, is there
to get past them:

- torchrun exits with 1 whatever code a rank exits with, so 75 (stopped, resumable) would look like a crash. The code is
  therefore written to ATTEMPT/rank-N.json.
- torchrun and `srun --kill-on-bad-exit` end all ranks as soon as one exits with anything but 0, also those that are
  still writing their part of the last checkpoint. So a rank that stopped on notice ends with 0 here.
- torchrun passes a SIGTERM on, but kills 30 s later, which is short for a save. So the notice comes by the stop file,
  which is watched here and becomes a SIGTERM to the command: commands that poll no file are told too.

    torchrun ── cluster.rank ── python ARGUMENTS...
                    └── ATTEMPT/rank-N.json
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from cluster.job import EXIT_STOPPED, stop_file
from cluster.processes import dies_with_parent, host_name, shell_code
from cluster.records import write_json
from cluster.signals import NOTICE_SIGNALS, STOP_FILE_VARIABLE

POLL_S = 0.5


def quiet_code(code: int) -> int:
    """The code that torchrun and srun get to see: a rank that stopped on notice is no reason to kill the others."""
    return 0 if code == EXIT_STOPPED else code


def run(attempt: Path, command: Sequence[str]) -> int:
    """Runs the command with this Python to its end, and returns its exit code."""
    arrange = dies_with_parent()
    arrange()
    stop = stop_file(attempt)
    env = {**os.environ, STOP_FILE_VARIABLE: str(stop)}

    def prepare() -> None:
        # The batch script makes torchrun ignore SIGTERM, and what is ignored stays so in children. A command that does
        # not listen for a notice must die of it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        arrange()

    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    # Before the command starts: a notice that comes in between must not end this process, and with it the command.
    for number in NOTICE_SIGNALS:
        signal.signal(number, forward)
    # preexec_fn is safe here: this process has no other thread yet.
    child = subprocess.Popen([sys.executable, "-u", *command], env=env, preexec_fn=prepare)
    for missed in early:
        child.send_signal(missed)
    # Ctrl-C reaches the whole foreground group, the command too; waiting for it is this process's whole work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def relay() -> None:
        while not stop.exists():
            time.sleep(POLL_S)
        child.send_signal(signal.SIGTERM)

    threading.Thread(target=relay, daemon=True).start()
    return shell_code(child.wait())


def main(arguments: Sequence[str]) -> int:
    attempt, command = Path(arguments[0]), arguments[1:]
    rank = int(os.environ.get("RANK", "0"))
    code = run(attempt, command)
    end = {"rank": rank, "code": code, "host": host_name(), "ended_at": time.time()}
    write_json(attempt / f"rank-{rank:05d}.json", end)
    return quiet_code(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
