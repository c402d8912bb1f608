"""One rank of an examination in which something is wrong, as the tests start it: torchrun ... faulty.py CONFIG TIMEOUT_S
FAULT ... Rank 1 is the one at fault.

mix      another torch               clock    a clock 30 s ahead          memory   hardly any memory
blind    a workspace of its own      disk     a full disk                 late     late for each collective
skewed   gradients 1.5 times         streams  all ranks draw the same     lossy    a load that drops second moments
hang     never ends its first check  die      dies in the gradients' check
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cluster.signals import StopNotice
from data_prep.files import read_record
from pipeline.config import load_config
from pipeline.doctor import machine, network, rank, state
from pipeline.doctor.rank import EXAMS, Exam, examine_rank
from pipeline.doctor.report import REPORT_NAME, Report
from pipeline.train.elastic import state_tensors
from pipeline.train.stragglers import Stopwatch
from pipeline.workspace import open_workspace

GUILTY = os.environ["RANK"] == "1"


def instead(original: Callable[..., Any], measure: Callable[..., Any]) -> None:
    """Another measurement for an exam, on the rank at fault."""
    if GUILTY:
        rank.EXAMS = tuple(exam if exam.measure != original else replace(exam, measure=measure) for exam in rank.EXAMS)


def mix() -> None:
    machine.versions = lambda: {"torch": "2.12.0" if GUILTY else "2.13.0"}


def clock() -> None:
    look = machine.look
    instead(look, lambda patient: look(patient, lambda: time.time() + 30))


def memory() -> None:
    machine.free_bytes = lambda local_size: 1000 if GUILTY else 10**12


def blind() -> None:
    machine.SHARED_BOUND_S = 2.0
    if GUILTY:
        machine.StopNotice = lambda env, *, files: StopNotice(env, files=(Path("/nowhere"),))


def disk() -> None:
    def full(patient: Any) -> Any:
        patient.together()  # as the others do, before they write
        raise OSError(28, "No space left on device")

    instead(machine.write_probe, full)


def late() -> None:
    class Late(Stopwatch):
        @contextmanager
        def running(self) -> Iterator[None]:
            time.sleep(0.05)
            with super().running():
                yield

    network.SIZES = {"cpu": (1 << 10,)}  # at which the network looks slow, too
    if GUILTY:
        network.Stopwatch = Late


def skewed() -> None:
    start = state.start_engine

    def start_skewed(*arguments: Any, **words: Any) -> Any:
        engine = start(*arguments, **words)
        backward = engine.backward
        engine.backward = lambda loss: backward(1.5 * loss if GUILTY else loss)
        return engine

    state.start_engine = start_skewed


def streams() -> None:
    state.seed_rank = lambda train, world: torch.manual_seed(train.seed)


def lossy() -> None:
    load = state.load

    def load_lossy(engine: Any, path: Path, checkpoint: Any, world: Any) -> None:
        load(engine, path, checkpoint, world)
        for key, tensor in state_tensors(engine, world.rank, world.size).items():
            if GUILTY and key.startswith("exp_avg_sq/"):
                tensor.zero_()

    state.load = load_lossy


def hang() -> None:
    instead(machine.look, lambda patient: time.sleep(3600))


def die() -> None:
    def fall(patient: Any) -> None:
        """Once rank 0 has said that it stands here, which it could not any more when it is told to end."""
        while "gradients" not in read_record(Report, patient.folder.path / REPORT_NAME).failed:
            time.sleep(0.02)
        os._exit(9)

    instead(state.compare_gradients, fall)


def main(config_path: str, timeout_s: str, *faults: str) -> None:
    for fault in faults:
        globals()[fault]()
    config = load_config(Path(config_path))
    examine_rank(config, open_workspace(config), float(timeout_s))


if __name__ == "__main__":
    assert all(isinstance(exam, Exam) for exam in EXAMS)
    main(*sys.argv[1:])
