"""The watchdog: a run in which no step ends any more is ended, and says where every thread of every rank stood.

A rank whose peer is gone waits in a collective, in native code, where Python runs no signal handler and no exception
can reach it. So a thread counts down beside it; and since native code may even keep the GIL, a timer of faulthandler,
which needs no Python, stands behind that thread.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from textwrap import indent
from types import TracebackType
from typing import Self, TextIO

EXIT_HUNG = 3
"""As of any other failure of the work (`pipeline.errors`)."""
LAST_RESORT_S = 60.0
"""How long the thread may take to say and end all, before the timer does without it."""


class Watchdog:
    """Ends the process if `beat` is not called in time, from `with Watchdog(...) as watchdog:` to the block's end.

    The first beat, and one after each `restart`, may take `start_timeout_s`, every other `step_timeout_s`. `hung` is
    told the seconds that have passed, in a thread of its own, and may say so to others before the process ends.
    `waited_for` and `advice` are its last words. All ranks of a run may bite at once and write to the same log, so the
    stacks go there in one piece, and each line of them says whose it is.
    """

    def __init__(
        self,
        name: str,
        *,
        rank: int = 0,
        step_timeout_s: float,
        start_timeout_s: float,
        hung: Callable[[float], None] = lambda silent_s: None,
        waited_for: str = "no step has ended",
        advice: str = "run it again to resume, or raise train.guard.step_timeout_s",
        end: Callable[[int], None] = os._exit,
        stacks: TextIO | None = None,
    ) -> None:
        self._name, self._rank, self._hung, self._end = name, rank, hung, end
        self._waited_for, self._advice = waited_for, advice
        self._step_timeout_s, self._start_timeout_s = step_timeout_s, start_timeout_s
        self._stacks = stacks or sys.stderr
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self.restart()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        faulthandler.cancel_dump_traceback_later()
        self._thread.join()

    def beat(self) -> None:
        """A step has ended."""
        self._allow(self._step_timeout_s)

    def restart(self) -> None:
        """What comes next may take as long as a start."""
        self._allow(self._start_timeout_s)

    def _allow(self, seconds: float) -> None:
        with self._changed:
            self._since, self._deadline = time.monotonic(), time.monotonic() + seconds
            self._changed.notify()
        faulthandler.dump_traceback_later(seconds + LAST_RESORT_S, exit=True, file=self._stacks)

    def _watch(self) -> None:
        with self._changed:
            while not self._closed and (left := self._deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            if self._closed:
                return
            silent_s = time.monotonic() - self._since
        self._stacks.flush()
        os.write(self._stacks.fileno(), indent(stacks_of_threads(), f"[rank {self._rank}] ").encode())
        self._hung(silent_s)
        print(
            f"headrace: run {self._name}: {self._waited_for} for {silent_s:.0f} s, so it is taken for hung (see the "
            f"stacks above); {self._advice}",
            file=self._stacks,
            flush=True,
        )
        self._end(EXIT_HUNG)


def stacks_of_threads() -> str:
    """Where each thread of this process stands. In memory first: faulthandler writes a word at a time."""
    with os.fdopen(os.memfd_create("stacks"), "r+b") as file:
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")
