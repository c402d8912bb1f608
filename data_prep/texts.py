"""Texts: many documents' UTF-8 bytes one after another, as kernels and Arrow want them.

data     |first text|second|...      uint8
offsets  0          10     16        int64, one more than there are texts
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Texts:
    data: Bytes
    offsets: Int64s

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, place: int) -> bytes:
        return self.data[self.offsets[place] : self.offsets[place + 1]].tobytes()

    @property
    def sizes(self) -> Int64s:
        """UTF-8 bytes of each text."""
        return np.diff(self.offsets)


def texts_of(texts: Sequence[bytes]) -> Texts:
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)), out=offsets[1:])
    return Texts(np.frombuffer(b"".join(texts), dtype=np.uint8), offsets)


def texts_from_arrow(column: pa.Array) -> Texts:
    """A view of a `large_binary` or `large_string` array without nulls, in place."""
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    whole = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)
    return Texts(whole[bounds[0] : bounds[-1]], bounds - bounds[0])


def texts_to_arrow(texts: Texts) -> pa.Array:
    """The same bytes as a `large_binary` array, in place."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(texts.offsets)), pa.py_buffer(np.ascontiguousarray(texts.data))]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(texts), buffers)


def take(texts: Texts, places: Int64s) -> Texts:
    """Some of the texts, in the given order."""
    return texts_from_arrow(texts_to_arrow(texts).take(pa.array(places)))


def replaced(texts: Texts, new: Mapping[int, bytes]) -> Texts:
    """The texts with some of them, by place, replaced; what lies between those is copied in one piece."""
    if not new:
        return texts
    sizes, start = texts.sizes, 0
    pieces: list[bytes] = []
    for place, text in sorted(new.items()):
        pieces += [texts.data[texts.offsets[start] : texts.offsets[place]].tobytes(), text]
        sizes[place], start = len(text), place + 1
    pieces.append(texts.data[texts.offsets[start] :].tobytes())
    return Texts(np.frombuffer(b"".join(pieces), dtype=np.uint8), np.concatenate([[0], np.cumsum(sizes)]))


def blank(texts: Texts) -> npt.NDArray[np.bool_]:
    """Which texts are empty or nothing but white space. The first byte decides for nearly all."""
    is_blank: npt.NDArray[np.bool_] = texts.sizes == 0
    first = np.zeros(len(texts), dtype=np.uint8)
    first[~is_blank] = texts.data[texts.offsets[:-1][~is_blank]]
    for place in np.flatnonzero(~is_blank & ((first <= 32) | (first >= 127))).tolist():
        is_blank[place] = texts[place].decode().isspace()
    return is_blank
