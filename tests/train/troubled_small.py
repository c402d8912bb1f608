"""One rank of a small run that meets trouble while it writes the checkpoint of step 6 in the background, as the tests
start it: troubled_small.py TROUBLE CONFIG CORPUS.

`kill`: SIGKILL when half of a file is written. `term`: SIGTERM then, for which step 7 waits, and the write goes on once
training has heard it.
`fail`: a full disk on the last rank; `bug`: an error of ours there; `apart`: the full disk, and rank 0 knows of it by the
end of step 7, the last rank only in step 8. `spike`: the loss of step 7 is not a number, once, and the write goes on when
training waits for it. What happens when is settled by events, not by the clock.
"""

import math
import os
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

from torch import Tensor

from cluster.signals import StopNotice
from pipeline.errors import PipelineError
from pipeline.train import loop, snapshot
from pipeline.train.checkpoint import Checkpoint, FileRecord
from pipeline.train.saving import Saver
from tests.train import train_small

STEP = 6
FULL = OSError(28, "No space left on device")
FAILURES = {"fail": FULL, "bug": KeyError("F64"), "apart": FULL}
write_tensors, requested = snapshot.write_tensors, StopNotice.requested
train_step, save, write, wait = loop.train_step, Saver.save, Saver._write, Saver.wait
sent, heard = threading.Event(), threading.Event()


def troubled(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    if path.parent.name != f".step-{STEP:08d}.saving" or not path.name.startswith("state-"):
        return write_tensors(path, tensors)
    assert threading.current_thread() is not threading.main_thread()
    if trouble in FAILURES and is_last():
        raise FAILURES[trouble]
    record = write_tensors(path, tensors)
    if trouble == "kill":
        os.truncate(path, record.size_bytes // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == "term":
        os.kill(os.getpid(), signal.SIGTERM)
        sent.set()
    if trouble in ("term", "spike"):
        assert heard.wait(60)
    return record


def is_last() -> bool:
    return int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1


def told(notice: StopNotice) -> bool:
    stop = requested(notice)
    if stop:
        heard.set()
    return stop


def term() -> None:
    """Without this, training might come to the next save, which waits for this one, and hear nothing there."""
    steps: list[int] = []

    def train_step_(*arguments: Any) -> tuple[Tensor, float, float]:
        steps.append(len(steps) + 1)
        assert steps[-1] <= STEP or sent.wait(60)
        return train_step(*arguments)

    loop.train_step = train_step_


def spike() -> None:
    """Step 7, the first time, has no loss; whoever waits for the save of step 6 lets it go on."""
    steps: list[int] = []
    saves: list[int] = []

    def train_step_(*arguments: Any) -> tuple[Tensor, float, float]:
        losses, norm, forward_s = train_step(*arguments)
        steps.append(len(steps) + 1)
        return losses * math.nan if steps[-1] == STEP + 1 else losses, norm, forward_s

    def save_(saver: Saver, checkpoint: Checkpoint) -> None:
        save(saver, checkpoint)
        saves.append(checkpoint.step)

    def wait_(saver: Saver) -> None:
        if saves[-1:] == [STEP]:
            heard.set()
        wait(saver)

    loop.train_step, Saver.save, Saver.wait = train_step_, save_, wait_  # type: ignore[method-assign]


def apart() -> None:
    steps: list[int] = []
    savers: list[Saver] = []

    def train_step_(*arguments: Any) -> tuple[Tensor, float, float]:
        steps.append(len(steps) + 1)
        if steps[-1] == STEP + 2:
            heard.set()
        taken = train_step(*arguments)
        if steps[-1] == STEP + 1 and not is_last():
            saving = savers[-1]._saving
            assert saving is not None
            futures.wait([saving.saved])
        return taken

    def save_(saver: Saver, checkpoint: Checkpoint) -> None:
        savers.append(saver)
        save(saver, checkpoint)

    def write_(*arguments: Any) -> tuple[Checkpoint, float]:
        try:
            return write(*arguments)
        except PipelineError:
            assert not is_last() or heard.wait(60)
            raise

    loop.train_step, Saver.save, Saver._write = train_step_, save_, write_  # type: ignore[method-assign]


if __name__ == "__main__":
    trouble = sys.argv[1]
    snapshot.write_tensors, StopNotice.requested = troubled, told  # type: ignore[method-assign]
    {"term": term, "spike": spike, "apart": apart}.get(trouble, lambda: None)()
    raise SystemExit(train_small.main(*sys.argv[2:]))
