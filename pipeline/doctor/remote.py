"""What the second tier is like from here: `remote`, as training would use it, and each machine's folder for its shards.

    rank 0: write twice, put, list, fetch ──told──> a rank of each node: read ──told──> rank 0: remove

Nobody else is asked to wait where one fails: what went wrong travels as words, so that every rank comes to every
meeting.
"""

import hashlib
import os
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from cluster.processes import host_name
from data_prep.files import sha256_file
from data_prep.manifest import MANIFEST_NAME, read_manifest
from pipeline.config import RunConfig
from pipeline.data.shard_cache import OURS, check_budget, check_writable, default_folder
from pipeline.doctor.checks import CacheFolder, Visit
from pipeline.doctor.patient import Patient
from pipeline.durable import lacks_shards, remote_run
from pipeline.errors import HEADRACE_ERRORS, PipelineError
from pipeline.remote import RemoteFolder
from pipeline.runs import read_state
from pipeline.workspace import Workspace

SMALL_BYTES, LARGEST_BYTES = 8 << 20, 256 << 20
"""A store's client sends what is above some 100 MB in parts, side by side, as it does a checkpoint's files."""
PROBE_S = 4.0
"""About how long the larger file may take, by the pace of the small one."""
RECORD, SMALL, LARGE = "record", "small", "large"
Stored: TypeAlias = tuple[str, float | None, float | None]
"""The small file's sha256, and the bytes a second of the large one, up and down."""
NOT_STORED: Stored = ("", None, None)
Done = TypeVar("Done")


def visit_remote(patient: Patient) -> Visit | None:
    """None without a remote."""
    remote = remote_run(patient.config)
    if remote is None:
        return None
    world = patient.world
    return visit(
        remote.at("doctor"),
        patient.folder.path,
        patient.gathered,
        is_main=world.is_main,
        is_first_of_node=world.local_rank == 0,
    )


def visit(
    remote: RemoteFolder,
    scratch: Path,
    gathered: Callable[[Any], list[Any]],
    *,
    is_main: bool = True,
    is_first_of_node: bool = True,
) -> Visit:
    """scratch: a folder of this machine's that may hold `LARGEST_BYTES` twice. To be called by all ranks."""
    (small, up, down), problem = attempt(lambda: stored(remote, scratch), NOT_STORED, wanted=is_main)
    written = gathered((small, problem))
    if written[0][1] is None:
        reads = attempt(lambda: read_back(remote, written[0][0]), None, wanted=is_first_of_node)
        problem = reads[1]
    gathered(None)  # all have read
    left = attempt(lambda: remove(remote, scratch), None, wanted=is_main)[1]
    return Visit(problem=problem, left=left, up_bytes_per_s=up, down_bytes_per_s=down)


def attempt(do: Callable[[], Done], without: Done, *, wanted: bool) -> tuple[Done, str | None]:
    """What was done, and what went wrong with it in one line."""
    if not wanted:
        return without, None
    try:
        return do(), None
    except HEADRACE_ERRORS as error:
        return without, str(error)
    except Exception as error:  # a store's client may raise whatever it likes
        traceback.print_exc()
        return without, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; the log has the traceback"


def stored(remote: RemoteFolder, scratch: Path) -> Stored:
    """Writes, lists and fetches as training does."""
    remote.write(RECORD, b"first")
    remote.write(RECORD, b"second")  # as pins, guard and journal are, with each checkpoint
    file = scratch / "probe-there"
    small = _noise(file, SMALL_BYTES)
    size = probe_bytes(SMALL_BYTES, _timed(lambda: remote.put(SMALL, file)))
    large = _noise(file, size)
    up_s = _timed(lambda: remote.put(LARGE, file))
    if (names := remote.names()) != sorted((RECORD, SMALL, LARGE)):
        raise PipelineError(
            f"remote: {remote.url} lists {', '.join(names) or 'nothing'} behind {RECORD}, {SMALL} and {LARGE} were "
            "written; checkpoints are found by the store's listing, so take one that lists what it has"
        )
    down_s = _timed(lambda: remote.fetch(LARGE, scratch / "probe-back", large))
    return small, size / up_s, size / down_s


def probe_bytes(first_bytes: int, seconds: float) -> int:
    """How large a file shows the store's pace in `PROBE_S`. seconds: that the first one took."""
    return int(min(max(first_bytes / seconds * PROBE_S, first_bytes), LARGEST_BYTES))


def read_back(remote: RemoteFolder, small: str) -> None:
    """Raises PipelineError if a node reads other bytes than rank 0 wrote. small: sha256."""
    record, data = remote.read(RECORD), remote.read(SMALL)
    for name, same in ((RECORD, record == b"second"), (SMALL, hashlib.sha256(data or b"").hexdigest() == small)):
        if not same:
            raise PipelineError(
                f"remote: {remote.url}/{name} reads otherwise on {host_name()} than rank 0 wrote it last; "
                "give a place that is the same on all nodes, with no cache in between"
            )


def remove(remote: RemoteFolder, scratch: Path) -> None:
    for name in ("probe-there", "probe-back"):
        (scratch / name).unlink(missing_ok=True)
    remote.remove_all()
    if names := remote.names():
        raise PipelineError(f"remote: {remote.url} still lists {', '.join(names)}; remove them, and the cause")


def _noise(file: Path, size: int) -> str:
    """Fills a file with what no store packs, and gives its sha256."""
    piece = os.urandom(4 << 20)
    with file.open("wb") as out:
        for start in range(0, size, len(piece)):
            out.write(piece[: size - start])
    return sha256_file(file)


def _timed(do: Callable[[], object]) -> float:
    began = time.monotonic()
    do()
    return max(time.monotonic() - began, 1e-9)


# --- the folder for shards --------------------------------------------------------------------------------------------


def look_at_cache(patient: Patient) -> CacheFolder | None:
    """None if this run needs no shards from the remote."""
    return cache_folder(patient.config, patient.workspace)


def cache_folder(config: RunConfig, workspace: Workspace) -> CacheFolder | None:
    """None without `data.cache_bytes`, or if the workspace has the shards that the run has pinned."""
    budget_bytes, state = config.data.cache_bytes, read_state(workspace.run(config.name))
    corpus = workspace.corpora / state.corpus if state is not None else None
    if budget_bytes is None or (corpus is not None and not lacks_shards(corpus)):
        return None

    def usable() -> tuple[str, int]:
        folder = Path(config.data.cache_folder) if config.data.cache_folder else default_folder()
        check_writable(folder)
        if corpus is not None and (corpus / MANIFEST_NAME).is_file():
            check_budget(budget_bytes, read_manifest(corpus))
        return str(folder), available_bytes(folder)

    (folder, room), problem = attempt(usable, (config.data.cache_folder or "", 0), wanted=True)
    return CacheFolder(host=host_name(), folder=folder, room_bytes=room, problem=problem)


def available_bytes(folder: Path) -> int:
    """What shards may fill: what is free, and what those of before hold."""
    held = sum(path.stat().st_size for path in folder.iterdir() if OURS.fullmatch(path.name))
    return shutil.disk_usage(folder).free + held
