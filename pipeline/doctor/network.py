"""How fast tensors travel between the ranks, and how fast each rank multiplies."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.doctor.checks import Timed
from pipeline.doctor.patient import Patient
from pipeline.model.ulysses import Peers, exchanged, find_peers
from pipeline.train.stragglers import Stopwatch

SIZES = {"cpu": (1 << 16, 1 << 20, 1 << 24), "cuda": (1 << 20, 1 << 25, 1 << 28)}
"""Bytes: where latency counts, where it fades, and a reduction's bucket."""
CALLS = 5
ALL_TO_ALL = "all-to-all"


@dataclass(frozen=True, kw_only=True)
class Network:
    calls: tuple[Timed, ...]
    waiting_s: float
    """Inside all of them together."""
    flops: float
    """FLOP/s of matrix products."""


def measure(patient: Patient) -> Network:
    calls = []
    if patient.world.size > 1:
        peers = find_peers(patient.config.train.sequence_parallel)
        for size in SIZES[patient.device.type]:
            for name, call in collectives(size, patient, peers).items():
                ranks = peers.size if name == ALL_TO_ALL else patient.world.size
                calls.append(Timed(collective=name, size_bytes=size, seconds=timed(call, patient), ranks=ranks))
    return Network(calls=tuple(calls), waiting_s=sum(one.seconds for one in calls), flops=matmul_flops(patient.device))


def collectives(size_bytes: int, patient: Patient, peers: Peers) -> dict[str, Callable[[], object]]:
    """What moves gradients and weights at the ZeRO stages, and heads between ranks that share sequences; each over a
    whole buffer of about that size."""
    share = torch.zeros(max(1, size_bytes // 4 // patient.world.size), device=patient.device)
    whole: Tensor = torch.zeros(len(share) * patient.world.size, device=patient.device)
    parts = torch.zeros(peers.size, max(1, size_bytes // 4 // peers.size), device=patient.device)
    between_peers: dict[str, Callable[[], object]] = {ALL_TO_ALL: partial(exchanged, parts, peers)}
    return {
        **(between_peers if peers.size > 1 else {}),
        "all-reduce": partial(dist.all_reduce, whole),
        "reduce-scatter": partial(dist.reduce_scatter_tensor, share, whole),
        "all-gather": partial(dist.all_gather_into_tensor, whole, share),
    }


def timed(call: Callable[[], object], patient: Patient) -> float:
    """Seconds of one call, on average, after one that warms up."""
    call()
    watch = Stopwatch(patient.device)
    for _ in range(CALLS):
        with watch.running():
            call()
    _finish(patient.device)
    return watch.seconds() / CALLS


def matmul_flops(device: torch.device) -> float:
    """Of square matrices, in bf16 on a GPU: 2n³ FLOPs each. The best of several: what else runs on a CPU is no fault
    of its own."""
    gpu = device.type == "cuda"
    n = 8192 if gpu else 512
    a = torch.ones(n, n, device=device, dtype=torch.bfloat16 if gpu else torch.float32)
    best_s = math.inf
    for _ in range(10):
        watch = Stopwatch(device)
        with watch.running():
            a @ a
        _finish(device)
        best_s = min(best_s, watch.seconds())
    return 2 * n**3 / best_s


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
