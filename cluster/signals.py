"""The notice to stop: who receives it, and how ranks agree on the step at which they all obey.

A notice comes as SIGTERM or SIGUSR1 (a preemption, a time limit, Ctrl-C's polite sister), or as a file that a launcher,
or somebody by hand, creates where all ranks look. Signals may reach one rank only, or each at another moment; the file
reaches all, within the time that a shared file system takes. So a notice only raises a flag, and the ranks settle
together when to stop.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

STOP_FILE_VARIABLE = "HEADRACE_STOP_FILE"
NOTICE_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopNotice:
    """Listens for a notice to stop, from `with StopNotice() as notice:` to the end of the block. After it the
    process is about to exit: if a notice came, or if a launcher watches over it, it ignores further ones.

    To be entered by the main thread, because Python lets only that one handle signals; any may call `requested`.
    `files` are looked for beside the launcher's own.
    """

    def __init__(self, env: Mapping[str, str] = os.environ, *, files: Sequence[Path] = (), poll_s: float = 0.5) -> None:
        path = env.get(STOP_FILE_VARIABLE)
        self._launched = bool(path)
        self._files = [*([Path(path)] if path else []), *files]
        self._poll_s = poll_s
        self._next_poll = 0.0
        self._reason: str | None = None
        self._pid = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in NOTICE_SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A rank that has saved and is about to exit with 75 must not be killed by the same notice, coming once more by
        # another way: the file that it polled becomes a SIGTERM as well. Under a launcher that holds even for a rank
        # that was not told itself, because it may have stopped by agreement, before its own notice came.
        leaving = self._reason is not None or self._launched
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if leaving else handler)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A forked data loader inherits this handler, but a flag that nobody there reads would make it immortal.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._reason = signal.Signals(number).name

    def requested(self) -> bool:
        """Whether a notice has come. Never goes back to False. Cheap enough for every step: 0.1 µs to 0.2 µs, and a
        look at the files (some µs locally, up to ms on a network) at most once in `poll_s`."""
        if self._reason is None and self._files:
            now = time.monotonic()
            if now >= self._next_poll:
                self._next_poll = now + self._poll_s
                if any(file.exists() for file in self._files):
                    self._reason = "stop file"
        return self._reason is not None

    @property
    def reason(self) -> str | None:
        """`SIGTERM`, `SIGUSR1` or `stop file`: for the journal. None as long as none has come."""
        return self._reason


def agreed(requested: bool, any_rank: Callable[[bool], bool]) -> bool:
    """Whether all ranks stop after this step: True on all of them or on none.

    `any_rank` tells every rank whether any rank said True: a MAX all-reduce of one number. It is a collective call, so
    every rank must come here after every step (or every k-th, as long as k is the same on all), not only those that
    have heard a notice. A rank that stopped by its own flag would leave the others waiting in a collective until they
    are killed, with nothing saved; submitit#1780 tells how such lingering ranks got whole nodes drained.
    """
    return any_rank(requested)
