"""Keyed permutations of [0, size) without an index array, for any size.

A Feistel network over the exact domain (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002: a generalised
Feistel network with cycle walking). It costs a few integer operations an element, works on whole numpy arrays, and its
inverse costs the same.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
"""Feistel rounds. Four give a pseudo-random permutation (Luby and Rackoff, 1988); two more for the small, uneven
halves."""

U64: TypeAlias = NDArray[np.uint64]


def mix(x: U64) -> U64:
    """Scrambles 64-bit integers; a bijection (splitmix64's finaliser, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key_of(*parts: int | U64) -> U64:
    """One 64-bit key out of several integers or arrays of them."""
    key = np.asarray([0x9E3779B97F4A7C15], dtype=np.uint64)
    for part in parts:
        # At least one dimension: numpy wraps arrays silently, as we mean it, but warns about scalars.
        key = mix(key + mix(np.atleast_1d(np.asarray(part, dtype=np.uint64)) + np.uint64(0x9E3779B97F4A7C15)))
    return key


def _halves(size: int) -> tuple[np.uint64, np.uint64]:
    """Factors a, b with a*b >= size and hardly above it, so that few elements walk."""
    a = int(np.ceil(np.sqrt(size)))
    return np.uint64(a), np.uint64(-(-size // a))


def _rest(x: U64, size: np.uint64) -> U64:
    """x % size. numpy makes a multiplication of dividing an array by one number, but not of the remainder: 0.4 of its
    time."""
    return x - x // size * size


def _wrapped(x: U64, size: np.uint64) -> U64:
    """x % size for x below 2 * size: where x is below size, the unsigned difference is huge."""
    wrapped: U64 = np.minimum(x, x - size)
    return wrapped


def _rounds(x: U64, key: U64, a: np.uint64, b: np.uint64) -> U64:
    left, right = x // b, _rest(x, b)
    for i in range(ROUNDS):
        if i % 2 == 0:
            left = _wrapped(left + _rest(mix(right + key + np.uint64(i)), a), a)
        else:
            right = _wrapped(right + _rest(mix(left + key + np.uint64(i)), b), b)
    return left * b + right


def _rounds_back(x: U64, key: U64, a: np.uint64, b: np.uint64) -> U64:
    left, right = x // b, _rest(x, b)
    for i in reversed(range(ROUNDS)):
        if i % 2 == 0:
            left = _wrapped(left + a - _rest(mix(right + key + np.uint64(i)), a), a)
        else:
            right = _wrapped(right + b - _rest(mix(left + key + np.uint64(i)), b), b)
    return left * b + right


def permute(x: U64, size: int, key: U64, *, inverse: bool = False) -> U64:
    """The image of each x under the keyed permutation of [0, size), or with `inverse` its preimage.

    `key` is one key for all elements or one for each. Elements that land outside [0, size) walk on until they are
    inside.
    """
    if size <= 1:
        return np.zeros_like(x)
    a, b = _halves(size)
    step = _rounds_back if inverse else _rounds
    key = np.broadcast_to(key, x.shape)
    x = step(x, key, a, b)
    while (outside := x >= size).any():
        x = x.copy()
        x[outside] = step(x[outside], key[outside], a, b)
    return x
