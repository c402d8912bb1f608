"""The notice to stop: who receives it, and how ranks agree on the step at which they all obey.

A notice comes as SIGTERM or SIGUSR1 (a preemption, a time limit), as the first Ctrl-C where somebody sits before it, or
as a file that a launcher, or somebody by hand, creates where all ranks look. Signals may reach one rank only, or each
at another moment; the file reaches all, within the time that a shared file system takes. So a notice only raises a
flag, and the ranks settle together when to stop.

    signal ──> C handler ──> socket ──> thread ──┬──> flag ──> the main thread, at its next boundary
    file  <─────────────── looks every poll_s ───┘──> listener: the record says when it came
"""

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, Self

STOP_FILE_VARIABLE = "HEADRACE_STOP_FILE"
NOTICE_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_CREDENTIALS = struct.Struct("3i")
"""`struct ucred` of unix(7): pid, uid, gid."""
_END = b"\0"
"""No signal has this number."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A notice, as this process heard it."""

    reason: str
    """`SIGTERM`, `SIGUSR1`, `SIGINT` or `stop file`."""
    at: float
    """When, in seconds since 1970."""


class StopNotice:
    """Listens for a notice to stop, from `with StopNotice() as notice:` to the end of the block. After it the
    process is about to exit: if a notice came, or if a launcher watches over it, it ignores further ones.

    To be entered by the main thread, because Python lets only that one handle signals; any may call `requested`.
    `files` are looked for beside the launcher's own. `ctrl_c`: SIGINT is a notice too, if this process does not ignore
    it. "once": a second one interrupts at once, as people expect; "always": it is one notice however often it comes,
    for torchrun hands on to its ranks what the terminal has sent them already.
    """

    def __init__(
        self,
        env: Mapping[str, str] = os.environ,
        *,
        files: Sequence[Path] = (),
        poll_s: float = 0.5,
        ctrl_c: Literal["once", "always"] | None = None,
    ) -> None:
        path = env.get(STOP_FILE_VARIABLE)
        self._launched = bool(path)
        self._files = (*([Path(path)] if path else []), *files)
        self._poll_s = poll_s
        self._ctrl_c = ctrl_c
        self._pid = os.getpid()
        self._before: dict[signal.Signals, Any] = {}
        # The first one counts. The handler and the thread both add, and an append needs no lock, which a handler could
        # find taken by the very thread that it interrupts.
        self._heard: list[Heard] = []
        self._telling = threading.Lock()
        self._listener: Callable[[Heard], None] | None = None

    def __enter__(self) -> Self:
        # The interpreter's C handler writes the signal's number to the descriptor at once, whatever the main thread is
        # at; the handler in Python has to wait for it. A forked child writes there too: the kernel adds who wrote.
        self._ours, self._handlers = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._ours.settimeout(self._poll_s)
        self._handlers.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._handlers.fileno(), warn_on_full_buffer=False)
        interrupts = self._ctrl_c and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        for number in (*NOTICE_SIGNALS, *[signal.SIGINT] * bool(interrupts)):
            self._before[number] = signal.signal(number, self._receive)
        self._listened = frozenset(self._before)
        self._thread = threading.Thread(target=self._watch, name="notice", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A rank that has saved and is about to exit with 75 must not be killed by the same notice, coming once more by
        # another way: the file that it polled becomes a SIGTERM as well. Under a launcher that holds even for a rank
        # that was not told itself, because it may have stopped by agreement, before its own notice came.
        leaving = self.requested() or self._launched
        for number, handler in self._before.items():
            ignored = leaving and (number in NOTICE_SIGNALS or self._ctrl_c == "always")
            signal.signal(number, signal.SIG_IGN if ignored else handler)
        self._before.clear()
        signal.set_wakeup_fd(self._wakeup_before)
        self._handlers.setblocking(True)
        self._handlers.send(_END)
        self._thread.join()
        self._handlers.close()
        self._ours.close()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A forked data loader inherits this handler, but a flag that nobody there reads would make it immortal.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if number == signal.SIGINT and self._ctrl_c == "once":
            signal.signal(number, self._before[signal.SIGINT])
        self._hear(signal.Signals(number).name)

    def _watch(self) -> None:
        """The thread. While the main one is in a long call of C (a collective, a compilation), it alone hears. A call
        that keeps the interpreter to itself keeps it from this thread too."""
        while (number := self._next_signal()) != _END[0]:
            if number in self._listened:
                self._hear(signal.Signals(number).name)
            self.look()
            self._tell()

    def _next_signal(self) -> int | None:
        """The number of the next signal that came to this process; None if there was none for a while, or if it came to
        a child."""
        try:
            data, credentials, _, _ = self._ours.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size))
        except TimeoutError:
            return None
        ((_, _, ucred),) = credentials
        sender_pid, _, _ = _CREDENTIALS.unpack(ucred)
        return data[0] if sender_pid == self._pid else None

    def _hear(self, reason: str) -> None:
        self._heard.append(Heard(reason=reason, at=time.time()))

    def _tell(self) -> None:
        with self._telling:
            if self._heard and self._listener is not None:
                listener, self._listener = self._listener, None
                listener(self._heard[0])

    def watch(self, file: Path) -> None:
        """Looks for one more file: now, and from now on."""
        self._files = (*self._files, file)
        self.look()

    def look(self) -> None:
        """Looks for the files now. The thread does so every `poll_s`: some µs locally, up to ms on a network."""
        if not self._heard and any(file.exists() for file in self._files):
            self._hear("stop file")

    @contextlib.contextmanager
    def told_to(self, listener: Callable[[Heard], None]) -> Iterator[None]:
        """Tells of the notice when it comes, or now if it has come: once, and most often from the thread, while the
        main one goes on."""
        self._listener = listener
        try:
            yield
        finally:
            self._tell()
            self._listener = None

    def requested(self) -> bool:
        """Whether a notice has come. Never goes back to False."""
        return bool(self._heard)

    @property
    def heard(self) -> Heard | None:
        """The first notice that came; None as long as none has."""
        return self._heard[0] if self._heard else None

    @property
    def reason(self) -> str | None:
        """`SIGTERM`, `SIGUSR1`, `SIGINT` or `stop file`: for the journal. None as long as none has come."""
        return self._heard[0].reason if self._heard else None


def agreed(requested: bool, any_rank: Callable[[bool], bool]) -> bool:
    """Whether all ranks stop after this step: True on all of them or on none.

    `any_rank` tells every rank whether any rank said True: a MAX all-reduce of one number. It is a collective call, so
    every rank must come here after every step (or every k-th, as long as k is the same on all), not only those that
    have heard a notice. A rank that stopped by its own flag would leave the others waiting in a collective until they
    are killed, with nothing saved; submitit#1780 tells how such lingering ranks got whole nodes drained.
    """
    return any_rank(requested)
