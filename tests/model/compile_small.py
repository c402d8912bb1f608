"""A compiled model against a plain one, in a process that is told to stop while the compiler works; as the test starts
it: compile_small.py CACHE_FOLDER."""

import os
import signal
import sys
from typing import Any

import torch
from torch._inductor import compile_fx

from cluster.signals import Heard, StopNotice
from tests.model.agreement import agree

told: list[Heard] = []
compile_with_inductor = compile_fx.compile_fx


def told_meanwhile(*arguments: Any, **named: Any) -> Any:
    if not told:
        os.kill(os.getpid(), signal.SIGTERM)
    compiled = compile_with_inductor(*arguments, **named)
    assert told, "the notice was not heard before the compiler was done"
    return compiled


if __name__ == "__main__":
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = sys.argv[1]
    compile_fx.compile_fx = told_meanwhile
    with StopNotice({}) as notice, notice.told_to(told.append), torch._inductor.config.patch(compile_threads=1):
        agree({"compile": "block"}, graphs=2)
    print(f"told: {told[0].reason}")
