"""One rank of a small run that meets trouble while it writes the checkpoint of step 6 in the background, as the tests
start it: troubled_small.py TROUBLE CONFIG CORPUS.

`kill`: SIGKILL when half of a file is written. `term`: SIGTERM then, and the write goes on once training has heard it.
`fail`: a full disk on the last rank. What happens when is settled by events, not by the clock.
"""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from cluster.signals import StopNotice
from pipeline.train import snapshot
from pipeline.train.checkpoint import FileRecord
from tests.train import train_small

STEP = 6
write_tensors, requested = snapshot.write_tensors, StopNotice.requested
heard = threading.Event()


def troubled(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    if path.parent.name != f".step-{STEP:08d}.saving" or not path.name.startswith("state-"):
        return write_tensors(path, tensors)
    assert threading.current_thread() is not threading.main_thread()
    if trouble == "fail" and int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1:
        raise OSError(28, "No space left on device")
    record = write_tensors(path, tensors)
    if trouble == "kill":
        os.truncate(path, record.size_bytes // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == "term":
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard.wait(60)
    return record


def told(notice: StopNotice) -> bool:
    stop = requested(notice)
    if stop:
        heard.set()
    return stop


if __name__ == "__main__":
    trouble = sys.argv[1]
    snapshot.write_tensors, StopNotice.requested = troubled, told
    raise SystemExit(train_small.main(*sys.argv[2:]))
