"""Stores that need no server, and their failures, for tests of what lies at a remote."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_prep import remote as data_remote
from pipeline.remote import RemoteFolder


def memory_store() -> Iterator[RemoteFolder]:
    """An empty one in this process."""
    name = uuid.uuid4().hex
    yield RemoteFolder(f"memory://{name}")
    store = MemoryFileSystem()
    if store.exists(f"/{name}"):
        store.rm(f"/{name}", recursive=True)


def files_at(remote: RemoteFolder) -> dict[str, bytes]:
    """Every file of a store in memory, by its path below the folder."""
    store, root = MemoryFileSystem(), "/" + remote.url.removeprefix("memory://")
    found = store.find(root) if store.exists(root) else []
    return {path.removeprefix(root + "/"): store.cat_file(path) for path in found}


def harm(remote: RemoteFolder, name: str, how: str) -> None:
    """Damages a file of a store in memory."""
    store, path = MemoryFileSystem(), "/" + remote.url.removeprefix("memory://") + f"/{name}"
    data = bytearray(store.cat_file(path))
    if how == "flip":
        data[len(data) // 2] ^= 1
    if how == "delete":
        store.rm_file(path)
    else:
        store.pipe_file(path, bytes(data[: len(data) // 2] if how == "tear" else data))


class Outage:
    """Makes the store in memory refuse what is asked of it while `broken`; nobody waits long for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = False
        monkeypatch.setattr(data_remote, "PAUSES_S", (0.0,))
        for method in ("put_file", "pipe_file", "cat_file", "ls", "info", "rm_file", "get_file"):
            monkeypatch.setattr(MemoryFileSystem, method, self._failing(getattr(MemoryFileSystem, method)))

    def _failing(self, method: Any) -> Any:
        def ask(*arguments: Any, **options: Any) -> Any:
            if self.broken:
                raise OSError("503 Slow Down")
            return method(*arguments, **options)

        return ask


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a local folder, by its path below it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
