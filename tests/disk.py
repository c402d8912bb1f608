"""What a power cut may undo: what was renamed or written since the last sync of its folder or file."""

import os
from pathlib import Path
from typing import Any

import pytest


def record_disk(patch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """From now on, in order: ("rename", new name), ("write", name of a journal) and ("sync", name of a folder or a
    file)."""
    done: list[tuple[str, str]] = []

    def renaming(rename: Any) -> Any:
        def renamed(source: Any, target: Any, **how: Any) -> None:
            rename(source, target, **how)
            done.append(("rename", Path(target).name))

        return renamed

    def on_descriptor(what: str, call: Any) -> Any:
        def called(descriptor: int, *rest: Any) -> Any:
            result = call(descriptor, *rest)
            done.append((what, Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
            return result

        return called

    for name in ("rename", "replace"):
        patch.setattr(os, name, renaming(getattr(os, name)))
    for what, name in (("write", "write"), ("sync", "fsync")):
        patch.setattr(os, name, on_descriptor(what, getattr(os, name)))
    return done
