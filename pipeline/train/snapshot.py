"""A training state on its way to disk: copied to host memory at once, written from there by another thread.

    live tensors ──snapshot──> host buffers, kept from save to save ──write_tensors──> NAME.safetensors, its sha256

What is unusual: we write the safetensors format ourselves, for it is a JSON header and the bytes. That hashes each byte
on its way to the disk instead of reading the file once more, copies nothing, and releases Python's lock for each piece,
so that the training thread goes on.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.model.export import header_bytes
from pipeline.train.checkpoint import FileRecord

_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8"}
_PIECE_BYTES = 4 << 20  # as much as stays in the cache between the hash and the write


def snapshot(tensors: Mapping[str, Tensor], buffers: dict[str, Tensor], after: torch.cuda.Event | None = None) -> None:
    """Copies the tensors to the host buffers of the same names, which are made where they are missing.

    On a GPU the copy has a stream of its own, so that it runs beside training's kernels, and begins behind the event.
    Kept buffers matter: a copy into fresh memory waits for the kernel to clear each page, at a third of the speed.
    """
    for name, tensor in tensors.items():
        if name not in buffers:
            buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    stream: Any = _stream_behind(after)
    with torch.cuda.stream(stream):  # does nothing for None
        for name, tensor in tensors.items():
            buffers[name].copy_(tensor.detach(), non_blocking=True)
    if stream is not None:
        stream.synchronize()


def _stream_behind(event: torch.cuda.Event | None) -> Any:
    """A new CUDA stream behind the event, or without one the thread's own; None if there is no GPU."""
    if event is None:
        return torch.cuda.current_stream() if torch.cuda.is_available() else None
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_event(event)
    return stream


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    """Writes contiguous CPU tensors as a safetensors file that is on disk when this returns. Raises OSError, as on a
    full disk. The format: https://huggingface.co/docs/safetensors."""
    hasher = hashlib.sha256()
    with path.open("wb") as file:
        for data in _file_bytes(tensors):
            file.write(data)
            hasher.update(data)
        file.flush()
        os.fsync(file.fileno())
        return FileRecord(size_bytes=file.tell(), sha256=hasher.hexdigest())


def _file_bytes(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    yield header_bytes(header)
    for tensor in tensors.values():
        data = tensor.flatten().view(torch.uint8).numpy().data
        for at in range(0, len(data), _PIECE_BYTES):
            yield data[at : at + _PIECE_BYTES]
