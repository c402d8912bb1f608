"""Facts about processes of this machine: is that one still alive, and who dies with whom."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def host_name() -> str:
    """What this machine calls itself."""
    return os.uname().nodename


def boot_id() -> str:
    """Differs after each boot, so that a process's start time, counted from boot, cannot match by chance."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def process_start(pid: int) -> str | None:
    """When the process started, as an opaque text; None if it is gone or only waits to be reaped.

    A pid alone does not name a process: pids are used again, on a busy machine within minutes. Pid and start time do.
    """
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # The name, in parentheses, may itself hold spaces and parentheses: fields count from the last one.
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else f"{boot_id()}/{fields[19]}"
    import subprocess

    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = shown.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()


def is_alive(pid: int, started: str) -> bool:
    """Whether that very process lives, not another one that got its pid later."""
    return process_start(pid) == started


def dies_with_parent() -> Callable[[], None]:
    """What a child calls first (as `preexec_fn`, or for itself) so that it is killed when its parent dies.

    torchrun starts each rank in a session of its own, so that killing a process group never reaches all of a job. With
    this along the chain supervisor, torchrun, rank, command, a SIGKILL of the supervisor ends all of them, and no rank
    lives on unseen beside the job that replaces it. Linux only; elsewhere it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return lambda: None
    import ctypes

    # Loaded here and not in the child: between fork and exec a child should call as little as it can.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)

    return arrange


def shell_code(returncode: int) -> int:
    """An exit code as a shell says it: 128 + the signal for a process that a signal ended."""
    return returncode if returncode >= 0 else 128 - returncode
