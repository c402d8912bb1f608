"""One rank of a small run to which something happens: train_harmed.py HARM CALL CONFIG CORPUS.

flip: a bit of rank 1's weights flips before the CALLth step that this process takes, once. hang: rank 1 does not come
to that step any more. stand: rank 0 does not. term: rank 1 gets SIGTERM in that save. late: rank 1 comes to that
step once the journal says that rank 0 was told to stop. verify: rank 0 gets SIGTERM before that file of a checkpoint is
verified.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.config import load_config
from pipeline.monitor.journal import read_journal
from pipeline.train import checkpoint, loop
from pipeline.train.saving import Saver
from pipeline.workspace import open_workspace
from tests.train import train_small


def flip(engine: Any, *rest: Any) -> None:
    weights = [one for one in engine.module.parameters() if one.ndim == 2]
    weights[len(weights) // 2].data.view(torch.int32).view(-1)[7] ^= (
        1 << 30
    )  # the exponent's highest bit: about 1e38 times as large


def hang(*rest: Any) -> None:
    threading.Event().wait()


def term(*rest: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def term_and_heard(*rest: Any) -> None:
    """In a thread: the notice is taken by another."""
    term()
    wait_until_told()


def late(*rest: Any) -> None:
    (open_workspace(load_config(Path(sys.argv[3]))).run("small").path / "late").touch()
    wait_until_told()


def wait_until_told() -> None:
    run = open_workspace(load_config(Path(sys.argv[3]))).run("small")
    while not any(line["kind"] == "told" for line in read_journal(run.metrics)):
        time.sleep(0.05)


def before_call(number: int, rank: str, harm: Callable[..., None], function: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    def harmed(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and os.environ["RANK"] == rank:
            harm(*args)
        return function(*args)

    return harmed


HARMS: dict[str, tuple[Callable[..., None], Any, str, str]] = {
    "flip": (flip, loop, "train_step", "1"),
    "hang": (hang, loop, "train_step", "1"),
    "stand": (hang, loop, "train_step", "0"),
    "late": (late, loop, "train_step", "1"),
    "term": (term, Saver, "save", "1"),
    "verify": (term_and_heard, checkpoint, "sha256_file", "0"),
}
"""What happens, before which function is called, on which rank."""


if __name__ == "__main__":
    kind, call, *arguments = sys.argv[1:]
    harm, owner, name, rank = HARMS[kind]
    setattr(owner, name, before_call(int(call), rank, harm, getattr(owner, name)))
    raise SystemExit(train_small.main(*arguments))
