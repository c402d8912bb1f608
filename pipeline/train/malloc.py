"""Training on a CPU keeps the memory that it frees.

glibc gives large tensors pages of their own and hands them back at once, so the kernel clears new pages for the next
tensor of the same size: a tenth of a training step's time (docs/lab-notes.md). A step takes what the step before took,
so all of it is kept. The process stays as large as at its fullest moment, and a little larger, as that has gaps.
On a GPU PyTorch's own allocator does the same.
"""

import ctypes
import platform

# From malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """For the rest of the process's life. Where the C library is not glibc, nothing changes."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)  # no tensor has pages of its own
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # and the heap's end is not given back
    libc.mallopt(M_TOP_PAD, 64 << 20)  # it grows in strides
