"""Reads what wandb wrote: a .wandb file is a LevelDB log of protobuf records."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER_BYTES = 7
BLOCK_BYTES = 32768


def records(path: Path) -> Iterator[Any]:
    """wandb's records. Format: github.com/google/leveldb/blob/main/doc/log_format.md, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = HEADER_BYTES, b""
    while at + HEADER_BYTES <= len(data):
        if BLOCK_BYTES - at % BLOCK_BYTES < HEADER_BYTES:
            at += BLOCK_BYTES - at % BLOCK_BYTES
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER_BYTES])
        chunk = data[at + HEADER_BYTES : at + HEADER_BYTES + length]
        at += HEADER_BYTES + length
        parts = chunk if kind in (1, 2) else parts + chunk
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record


def segments(run_folder: Path) -> list[Path]:
    return sorted(run_folder.glob("wandb/*run-*/*.wandb"))


def logged_history(run_folder: Path) -> list[dict[str, Any]]:
    """All logged points over all segments, as a server would show them: by wandb's step, each counted once."""
    points: dict[int, dict[str, Any]] = {}
    for path in segments(run_folder):
        for record in records(path):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                point = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
                points.setdefault(point["_step"], point)
    return [points[number] for number in sorted(points)]


def run_records(run_folder: Path) -> list[Any]:
    found = (record for path in segments(run_folder) for record in records(path))
    return [record.run for record in found if record.WhichOneof("record_type") == "run"]
