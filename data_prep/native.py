"""Kernels: plain loops over bytes and numbers, compiled by numba and kept on disk for the next process.

A rule that looks at every word costs 100 times more in Python objects than the tokenizer does; compiled it costs less.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numba.extending

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Compiles a function of numpy arrays and numbers at its first call; the machine code is cached beside the file."""
    compiled: Function = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return compiled


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function for kernels of one that gives its types and writes its instructions."""
    made: Callable[..., Any] = numba.extending.intrinsic(function)
    return made
