"""headrace, killed when it is about to delete the CALLth file inside a folder: prune_killed.py CALL VERB ..."""

import os
import signal
import sys
from typing import Any

from pipeline import cli

unlink = os.unlink
calls = int(sys.argv.pop(1))


def killed(name: Any, *, dir_fd: int | None = None) -> None:
    global calls
    if dir_fd is not None:  # so calls shutil.rmtree
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    unlink(name, dir_fd=dir_fd)


if __name__ == "__main__":
    os.unlink = killed
    cli.main()
