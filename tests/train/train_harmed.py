"""One rank of a small run to which something happens: train_harmed.py HARM CALL CONFIG CORPUS, or train_harmed.py HARM
CALL train CONFIG for the verb itself.

weights: a bit flips in what rank 1 computes with before the CALLth step that this process takes, once. master, exp_avg:
in what rank 1's optimizer keeps. hang: rank 1 does not come to that step any more. stand: rank 0 does not. write: rank 1
does not come to writing that file of its saves. term: rank 1 gets SIGTERM in that save. late: rank 1 comes to that step
once the journal says that rank 0 was told to stop. verify: rank 0 gets SIGTERM before that file of a checkpoint is
verified.

At ZeRO stage 3 queries' matrices and larger ones are cut, and small ones lie whole on each rank, as in a large model.
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
from torch import Tensor

from pipeline import cli
from pipeline.config import TrainConfig, load_config
from pipeline.monitor.journal import read_journal
from pipeline.train import checkpoint, engine, loop, snapshot
from pipeline.train.elastic import pieces
from pipeline.train.engine import zero_settings
from pipeline.train.saving import Saver
from pipeline.train.watchdog import Watchdog
from pipeline.workspace import open_workspace
from tests.train import train_small

MATRIX = "blocks.1.attention.query.weight"
"""Attention's softmax turns a number of 1e38 into one that is none. An MLP's would only drown the rest."""


def flip_weights(engine: Any, *rest: Any) -> None:
    parameter: Any = dict(engine.module.named_parameters())[MATRIX]
    flip(parameter.ds_tensor if hasattr(parameter, "ds_id") else parameter.data)


def flip_master(engine: Any, *rest: Any) -> None:
    [piece] = [piece for piece in pieces(engine) if piece.name == MATRIX]
    flip(piece.of(piece.holder))


def flip_exp_avg(engine: Any, *rest: Any) -> None:
    [piece] = [piece for piece in pieces(engine) if piece.name == MATRIX]
    flip(piece.of(engine.basic_optimizer.state[piece.holder]["exp_avg"]))


def flip(numbers: Tensor) -> None:
    """The exponent's highest bit of one of them: it is about 1e38 times as large."""
    bits = numbers.view({2: torch.int16, 4: torch.int32}[numbers.element_size()]).view(-1)
    bits[7] ^= 1 << (8 * numbers.element_size() - 2)


def cutting_matrices(train: TrainConfig, num_parameters: int) -> dict[str, Any]:
    settings = zero_settings(train, num_parameters)
    return settings | ({"stage3_param_persistence_threshold": 1000} if train.zero.stage == 3 else {})


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


def time_only_from(step: int) -> None:
    """A machine that stands still before that step is not taken for hung there."""
    beat, train_step, begun = Watchdog.beat, loop.train_step, 0
    seen: list[Watchdog] = []

    def restart(watchdog: Watchdog) -> None:
        seen.append(watchdog)
        watchdog.restart()

    def timed(*args: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun == step:
            beat(seen[-1])
        return train_step(*args)

    Watchdog.beat, loop.train_step = restart, timed  # type: ignore[method-assign]


HARMS: dict[str, tuple[Callable[..., None], Any, str, str]] = {
    "weights": (flip_weights, loop, "train_step", "1"),
    "master": (flip_master, loop, "train_step", "1"),
    "exp_avg": (flip_exp_avg, loop, "train_step", "1"),
    "hang": (hang, loop, "train_step", "1"),
    "stand": (hang, loop, "train_step", "0"),
    "late": (late, loop, "train_step", "1"),
    "write": (hang, snapshot, "write_tensors", "1"),
    "term": (term, Saver, "save", "1"),
    "verify": (term_and_heard, checkpoint, "sha256_file", "0"),
}
"""What happens, before which function is called, on which rank."""


if __name__ == "__main__":
    kind, call, *arguments = sys.argv[1:]
    harm, owner, name, rank = HARMS[kind]
    engine.zero_settings = cutting_matrices
    setattr(owner, name, before_call(int(call), rank, harm, getattr(owner, name)))
    if (harm, owner) == (hang, loop):
        time_only_from(int(call))
    if arguments[0] == "train":
        sys.argv = ["headrace", *arguments]
        cli.main()
    else:
        raise SystemExit(train_small.main(*arguments))
