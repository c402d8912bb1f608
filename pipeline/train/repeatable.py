"""The same step gives the same bits in every process, which on a GPU has to be asked for.

    torch            takes the deterministic one of several kernels; where there is none it warns, and goes on
    cuBLAS           has a workspace of fixed size for each stream (its manual, "Results reproducibility")
    torch.compile    lays reductions out by rule; by timing them on the device, as it would, each start may come to
                     another layout, and so to another order of additions

What is left to the machine: NCCL adds up in the order of its rings and trees, which follow the nodes and their network.
On a CPU this changes neither bits nor times.
"""

import os

import torch
from torch.utils import deterministic


def repeat_bits() -> None:
    """For the rest of the process's life; to be called before CUDA is first used and anything is compiled."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nobody reads what none has written
