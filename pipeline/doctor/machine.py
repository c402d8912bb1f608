"""What a rank can say of its machine: software, device, memory, clock, and the workspace's disk."""

import hashlib
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import cluster
import data_prep
import pipeline
from cluster.processes import host_name
from cluster.signals import StopNotice
from pipeline.doctor.checks import SHARED_BOUND_S
from pipeline.doctor.patient import Patient
from pipeline.plan.hardware import DEVICES, USABLE_SHARE

CLOCK_ROUNDS = 5
PROBE_BYTES = 256 << 20
"""Written by all ranks together: more than a disk's own cache takes in at once, and seconds at most."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    host: str
    versions: dict[str, str]
    device: str
    visible: int
    """GPUs on the node."""
    local_size: int
    free_bytes: int
    """What tensors of this rank may fill."""
    ticks: tuple[float, ...]
    """This rank's clock (Unix time in seconds) as it left one barrier after the other."""


def look(patient: Patient, clock: Callable[[], float] = time.time) -> Machine:
    return Machine(
        host=host_name(),
        versions=versions(),
        device=device_name() or "cpu",
        visible=torch.cuda.device_count(),
        local_size=patient.world.local_size,
        free_bytes=free_bytes(patient.world.local_size),
        ticks=tuple(_tick(patient, clock) for _ in range(CLOCK_ROUNDS)),
    )


def _tick(patient: Patient, clock: Callable[[], float]) -> float:
    patient.together()
    return clock()


def clock_offsets(ticks: Sequence[Sequence[float]]) -> list[float]:
    """Each rank's clock minus rank 0's, the median of the rounds. Ranks leave a barrier within milliseconds."""
    return [statistics.median(own - first for own, first in zip(rank, ticks[0], strict=True)) for rank in ticks]


def versions() -> dict[str, str]:
    import deepspeed

    found = {
        "headrace": source_digest()[:8],
        "torch": str(torch.__version__),
        "deepspeed": str(deepspeed.__version__),
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        found |= {"cuda": str(torch.version.cuda), "nccl": ".".join(map(str, torch.cuda.nccl.version()))}  # type: ignore[no-untyped-call]
    return found


def source_digest() -> str:
    """The sha256 of headrace's own source, in hex: two nodes may have two checkouts of one version."""
    hasher = hashlib.sha256()
    for package in (cluster, data_prep, pipeline):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            hasher.update(f"{package.__name__}/{path.relative_to(root)}\0".encode() + path.read_bytes())
    return hasher.hexdigest()


def device_name() -> str | None:
    """This rank's GPU, or None."""
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def planned_on(device: str | None) -> str | None:
    """Which of the devices that runs are planned on it is: `NVIDIA H100 80GB HBM3` is an h100. None if it is none of
    them."""
    if device is None:
        return "cpu"
    return next((name for name in DEVICES if name != "cpu" and name in device.lower()), None)


def free_bytes(local_size: int) -> int:
    """What tensors of one rank may fill: of its GPU, or its share of the node's memory."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return int(min(free, USABLE_SHARE * total))
    return free_host_bytes() // local_size


def free_host_bytes() -> int:
    """What this machine, or this container, still has of host memory."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min(available, _cgroup_bytes())


def _cgroup_bytes() -> int:
    """What a container may still take; without a limit, all there is."""
    folder = Path("/sys/fs/cgroup")
    try:
        return int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return 2**63


def wait_for_notice(patient: Patient) -> float | None:
    """Seconds until this rank sees the file that rank 0 makes in the workspace; None if it does not in time."""
    path = patient.folder.stop
    patient.together()
    began = time.monotonic()
    if patient.world.is_main:
        path.touch()
    notice = StopNotice({}, files=(path,))
    while True:
        late = time.monotonic() - began > SHARED_BOUND_S  # before the look: this process may have stood still itself
        notice.look()
        if notice.requested():
            return time.monotonic() - began
        if late:
            return None
        time.sleep(0.02)


@dataclass(frozen=True, kw_only=True)
class Disk:
    free_bytes: int
    written_bytes: int
    seconds: float


def write_probe(patient: Patient) -> Disk:
    """Writes this rank's share of `PROBE_BYTES` to the workspace, all ranks at once, until it is on the disk."""
    piece = os.urandom(4 << 20)  # noise, lest a file system packs it
    times = max(1, PROBE_BYTES // len(piece) // patient.world.size)
    path = patient.folder.path / f"probe-{patient.world.rank:05d}"
    free = shutil.disk_usage(patient.folder.path).free
    patient.together()
    began = time.monotonic()
    try:
        with path.open("wb") as file:
            for _ in range(times):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        seconds = time.monotonic() - began
    finally:
        path.unlink(missing_ok=True)
    return Disk(free_bytes=free, written_bytes=times * len(piece), seconds=seconds)
