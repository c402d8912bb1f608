"""Runs made of small files instead of training, for tests of what goes to a remote and comes from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.files import sha256_file, write_record
from pipeline.runs import RunState
from pipeline.train.checkpoint import RECORD_NAME, WEIGHTS_NAME, FileRecord, sealed
from pipeline.workspace import RunFolder
from tests.train.small_runs import RECORD

NAMES = (WEIGHTS_NAME, "state-00000.safetensors", "state-00001.safetensors", "rng-00000.safetensors")


def run_at(folder: Path) -> RunFolder:
    return RunFolder(path=folder / "runs/small")


def begun(run: RunFolder, config_digest: str = "", lr: float = 0.1) -> RunFolder:
    """Pins a run; `save` makes the checkpoints of one with an empty config digest."""
    shaping = {"train": {"optimizer": {"lr": lr}}}
    pins = RunState(run="small", config_digest=config_digest, weight_shaping=shaping, corpus="c", manifest_digest="")
    write_record(run.state, pins)
    return run


def save(run: RunFolder, step: int, content: str = "") -> str:
    """Commits a checkpoint of a few bytes; gives its digest."""
    path = run.checkpoint(step)
    path.mkdir(parents=True)
    for name in NAMES:
        (path / name).write_text(f"{name} {step} {content}")
    files = {
        name: FileRecord(size_bytes=(path / name).stat().st_size, sha256=sha256_file(path / name)) for name in NAMES
    }
    checkpoint = sealed(replace(RECORD, step=step, files=files))
    write_record(path / RECORD_NAME, checkpoint)
    return checkpoint.digest


class Said(list[dict[str, Any]]):
    """Stands in for the journal."""

    def __call__(self, kind: str, **figures: Any) -> None:
        self.append({"kind": kind, **figures})
