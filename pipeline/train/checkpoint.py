"""Checkpoints: committed by our own record, written last.

    .step-00000500.saving/     every rank writes, hashes and syncs its files
            │                  rank 0 writes checkpoint.json, which lists every file's size and sha256
            └──rename──> step-00000500/

A folder without its record does not count. Loading verifies every digest first. Only what is missing or says something
else is corrupt: a file that cannot be read just now may be as good as ever, so that is another error.

    checkpoint.json  model.safetensors  state-00000.safetensors ...  rng-00000.safetensors ...

`model.safetensors` holds the whole model's weights, so that evaluation, sampling and export need no DeepSpeed; the
state files hold the optimizer's fp32 state in pieces that any world can read (`elastic.py`). Nothing is unpickled.
This module's reading half imports no torch.
"""

import heapq
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.files import digest, plain, read_record, sha256_file, sync_folder
from pipeline.config import ModelConfig, model_said
from pipeline.data.position import Position
from pipeline.errors import CorruptCheckpoint, PipelineError
from pipeline.notice import GoOn, go_on
from pipeline.workspace import step_name, step_of

RECORD_NAME = "checkpoint.json"
WEIGHTS_NAME = "model.safetensors"
ENGINE_TAG = "engine"
"""The folder of DeepSpeed's own files in checkpoints of headrace 0.1.0."""


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    run: str
    step: int
    tokens: int
    """Tokens trained on so far."""
    position: Position
    config_digest: str
    """`RunConfig.digest`: data, model and optimisation."""
    world_size: int
    zero_stage: int
    precision: str
    model: ModelConfig
    vocab_size: int
    end_of_text_id: int
    sequence_length: int
    tokenizer_sha256: str
    corpus: str
    """Name of the corpus's folder in the workspace."""
    files: dict[str, FileRecord]
    """Path inside the folder -> what it must be; every file but the record itself."""
    digest: str = ""
    """sha256 of this record with an empty digest."""


def sealed(checkpoint: Checkpoint) -> Checkpoint:
    bare = plain(replace(checkpoint, digest="")) | {"model": model_said(checkpoint.model)}
    if not checkpoint.position.skipped:
        del bare["position"]["skipped"]  # it came later: records from before have none
    return replace(checkpoint, digest=digest(bare))


def steps_saved(folder: Path) -> list[int]:
    """Steps whose checkpoints are committed, ascending."""
    return [step for step in step_folders(folder) if (folder / step_name(step) / RECORD_NAME).is_file()]


def step_folders(folder: Path) -> list[int]:
    """Steps that have a folder named as a committed checkpoint is, ascending."""
    if not folder.is_dir():
        return []
    return sorted(step for child in folder.iterdir() if (step := step_of(child.name)) is not None)


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint's record, its own digest verified. Raises CorruptCheckpoint, PipelineError if it cannot be read."""
    try:
        checkpoint = read_record(Checkpoint, path / RECORD_NAME)
    except (FileNotFoundError, ValueError) as error:
        raise CorruptCheckpoint(f"{path / RECORD_NAME}: {error}; use another checkpoint") from error
    except OSError as error:
        raise _unreadable(path / RECORD_NAME, error) from error
    if sealed(checkpoint).digest != checkpoint.digest:
        raise CorruptCheckpoint(f"{path / RECORD_NAME} does not match its own digest; use another checkpoint")
    return checkpoint


def verify_checkpoint(path: Path, only: Iterable[str] | None = None, *, between: GoOn = go_on) -> Checkpoint:
    """Compares a checkpoint's files with its record: all of them, or those named. Raises as `read_checkpoint` and
    `verify_files`."""
    checkpoint = read_checkpoint(path)
    names = checkpoint.files if only is None else only
    verify_files(path, {name: checkpoint.files[name] for name in names}, between=between)
    return checkpoint


def verify_files(path: Path, files: Mapping[str, FileRecord], *, between: GoOn = go_on) -> None:
    """Compares files of a checkpoint with what they must be, as many at once as there are cores. `between` is called
    before each, by threads.

    Raises CorruptCheckpoint naming the first by name that differs, PipelineError naming one that cannot be read; other
    files are not begun then.
    """

    def verify(name: str) -> None:
        between()
        try:
            _verify_file(path / name, files[name])
        except OSError as error:
            raise _unreadable(path / name, error) from error

    # Threads are enough: hashing releases Python's lock. Nothing else goes on meanwhile, so the cores are free.
    pool = ThreadPoolExecutor(max_workers=num_cores(), thread_name_prefix="verify")
    try:
        for _ in pool.map(verify, sorted(files)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def dealt(files: Mapping[str, FileRecord], num_shares: int) -> list[dict[str, FileRecord]]:
    """Files in shares of much the same size: the largest first, each to the share that has the least so far. A share
    may be empty."""
    shares: list[dict[str, FileRecord]] = [{} for _ in range(num_shares)]
    least = [(0, share) for share in range(num_shares)]
    for name, file in sorted(files.items(), key=lambda one: (-one[1].size_bytes, one[0])):
        size_bytes, share = heapq.heappop(least)
        shares[share][name] = file
        heapq.heappush(least, (size_bytes + file.size_bytes, share))
    return shares


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _verify_file(file: Path, expected: FileRecord) -> None:
    if not file.is_file():
        raise CorruptCheckpoint(f"{file} is missing; use another checkpoint")
    size = file.stat().st_size
    if size != expected.size_bytes:
        raise CorruptCheckpoint(
            f"{file} has {size} bytes, its record says {expected.size_bytes}; use another checkpoint"
        )
    if sha256_file(file) != expected.sha256:
        raise CorruptCheckpoint(f"{file} does not match its recorded sha256; use another checkpoint")


def _unreadable(file: Path, error: OSError) -> PipelineError:
    return PipelineError(
        f"{file} cannot be read ({error.strerror or error}); run it again when its disk answers, or move its "
        "checkpoint away to go on from the one before"
    )


def set_aside(path: Path, why: str) -> None:
    """Renames a checkpoint to `NAME.WHY`, so that none resumes from it and its step can be saved anew; by then that is
    on disk. What bore that name goes."""
    aside = path.with_name(f"{path.name}.{why}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    sync_folder(path.parent)
