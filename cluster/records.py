"""Small JSON records, written whole or not at all.

A twin of `data_prep.files`, kept apart because the packages must not import each other, and because the processes that
watch a job (`supervise`, `rank`) start once for each rank and load nothing but the standard library.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Temporary name in the same folder, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by tempfile, whose import takes longer than all else here.
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        with temporary.open("x") as file:
            json.dump(value, file, sort_keys=True, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_json(path: Path) -> dict[str, Any] | None:
    """The record, or None if there is none. Raises ClusterError, naming the file, if it is not a JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ClusterError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ClusterError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value
