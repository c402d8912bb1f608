"""Builds to be killed: processes of a session, found and ended."""

import contextlib
import os
import signal
from pathlib import Path


def session_members(session: int) -> list[int]:
    """Processes of the session, also those whose parent is gone. Ray puts its own into groups, not into sessions."""
    members = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == session:
                members.append(int(folder.name))
        except ProcessLookupError:
            continue
    return members


def end_session(session: int) -> None:
    for pid in session_members(session):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def marked(session: int, *marks: str) -> list[int]:
    """The session's processes whose command line has one of the marks."""
    found = []
    for pid in session_members(session):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if any(mark in command for mark in marks):
                found.append(pid)
    return found
