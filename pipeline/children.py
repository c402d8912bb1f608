"""The processes that the scheduler starts beside itself: heavy work whose crash must not be the scheduler's."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.job import EXIT_STOPPED
from cluster.signals import StopNotice
from pipeline.errors import StoppedOnNotice

GRACE_S = 10.0
"""For an evaluation that is told to stop."""
POLL_S = 0.3
"""Between two looks: one costs about a millisecond, and what is waited for takes seconds."""


@dataclass
class Evaluation:
    """The one evaluation under way, in a process of its own."""

    command: Sequence[str]
    step: int | None = None
    failed: set[str] = field(default_factory=set)
    """Digests of the checkpoints whose evaluation failed. A rollback may set one aside while it is scored, and another
    will bear its step."""
    _digest: str = ""
    _process: subprocess.Popen[str] | None = None

    def start(self, step: int, digest: str) -> None:
        self.step, self._digest = step, digest
        self._process = subprocess.Popen(
            verb("evaluate", self.command, "--step", str(step), "--json"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def poll(self) -> None:
        """Notes it if the evaluation has ended; what a failed one said goes to our stderr."""
        if self._process is None or self._process.poll() is None:
            return
        _, said = self._process.communicate()
        if self._process.returncode not in (0, EXIT_STOPPED):  # one that was told to stop goes on when it starts again
            self.failed.add(self._digest)
            sys.stderr.write(said)
        self._process, self.step = None, None

    def end(self) -> None:
        """Ends it unfinished: it will go on with the batch that it is at."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.communicate(timeout=GRACE_S)
            except subprocess.TimeoutExpired:  # in a long batch, or loading: nothing that a kill could harm
                self._process.kill()
                self._process.communicate()
            self._process, self.step = None, None


def verb(verb: str, command: Sequence[str], *options: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", verb, *command, *options]


def prepare(command: Sequence[str], notice: StopNotice) -> None:
    """Builds the corpus in a process of its own, with its progress on our stderr. Its one-line error is the user's
    answer."""
    process = subprocess.Popen(verb("prep", command), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if notice.requested():
            process.terminate()
            process.wait()
            raise StoppedOnNotice("stopped on notice while preparing data; run it again and it goes on where it was")
        time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(process.returncode)
