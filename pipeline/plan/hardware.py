"""What runs are planned on: memory and peak speed of the usual GPUs, from their makers' data sheets."""

from dataclasses import dataclass
from typing import Literal

from pipeline.config import RunConfig
from pipeline.errors import Mistake
from pipeline.plan.shape import recomputed_share


@dataclass(frozen=True, kw_only=True)
class Device:
    name: str
    kind: Literal["gpu", "cpu"] = "gpu"
    """Kernels differ in what they keep for backward."""
    memory_bytes: int | None
    """None: not known here, and nothing is said about what fits."""
    peak_flops: float
    """FLOP/s in dense bf16, the peak that MFU is a share of."""
    usual_mfu: float
    """What a run of 1B parameters or more may be expected to reach, full-attention convention."""


_GB = 10**9

# Dense bf16, without the sparsity that data sheets double it with. Of the usual MFUs: llm-foundry reports 42 % at 1.3B
# and 46 % at 7B on 8 H100s and 50 % or more on A100s; Megatron-LM 41-48 % on H100s. B200 is assumed to do no better.
DEVICES = {
    device.name: device
    for device in (
        Device(name="b200", memory_bytes=180 * _GB, peak_flops=2250e12, usual_mfu=0.40),
        Device(name="h200", memory_bytes=141 * _GB, peak_flops=989e12, usual_mfu=0.42),
        Device(name="h100", memory_bytes=80 * _GB, peak_flops=989e12, usual_mfu=0.42),
        Device(name="a100", memory_bytes=80 * _GB, peak_flops=312e12, usual_mfu=0.50),
        Device(name="a100-40gb", memory_bytes=40 * _GB, peak_flops=312e12, usual_mfu=0.50),
        # A core with AVX2 at 3 GHz: 2 FMA units × 8 fp32 lanes × 2. Measured: 25-40 GFLOP/s a core in training.
        Device(name="cpu", kind="cpu", memory_bytes=None, peak_flops=96e9, usual_mfu=0.30),
    )
}

ASSUMED = (
    "cluster.gpus_per_node asks for no GPU; H200s are assumed because train.precision is bf16. "
    "Set gpus_per_node, or give --gpu, or train.precision=fp32 for CPUs."
)

USABLE_SHARE = 0.92
"""Of a GPU's memory, what tensors may fill: the CUDA context, NCCL's and cuBLAS's buffers take 2 to 3 GB, and the
caching allocator loses a few per cent to fragments."""


def device_named(name: str) -> Device:
    """Raises Mistake if it is none of ours."""
    device = DEVICES.get(name.lower())
    if device is None:
        raise Mistake(f"--gpu: {name!r} is not known; choose one of {', '.join(DEVICES)}")
    return device


@dataclass(frozen=True, kw_only=True)
class Hardware:
    device: Device
    count: int
    """Ranks, each with a device of its own; on CPUs, cores."""
    mfu: float
    """Model FLOPs utilisation that is assumed: a share of the device's peak, in the full-attention convention."""
    price_per_gpu_hour: float | None = None
    assumed: str = ""
    """Why GPUs are planned on where the config asks for none, for people; empty if it asks or the user has told."""


def hardware_for(
    config: RunConfig,
    *,
    gpu: str | None = None,
    count: int | None = None,
    mfu: float | None = None,
    price_per_gpu_hour: float | None = None,
) -> Hardware:
    """What is told; for the rest as many devices as the config has ranks, H200s unless it plainly means CPUs: where it
    asks for no GPU but computes in bf16, which is left as it is by default, `assumed` says so.

    What is computed twice lowers the usual MFU: a forward pass is one third of a step.
    """
    asks_none = config.cluster.gpus_per_node == 0
    on_cpu = asks_none and config.train.precision == "fp32"
    device = device_named(gpu or ("cpu" if on_cpu else "h200"))
    return Hardware(
        device=device,
        count=config.world_size if count is None else count,
        mfu=device.usual_mfu * 3 / (3 + recomputed_share(config.model)) if mfu is None else mfu,
        price_per_gpu_hour=price_per_gpu_hour,
        assumed=ASSUMED if asks_none and not on_cpu and gpu is None else "",
    )


def usable_bytes(device: Device) -> int | None:
    """What tensors may fill of a device's memory; None if that is not known."""
    return None if device.memory_bytes is None else int(device.memory_bytes * USABLE_SHARE)
