"""What is different between two configs, key by key."""

from collections.abc import Iterator
from typing import Any


def changed_keys(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Dotted keys whose values differ, as `key: before -> after`, for two trees of plain values."""
    flat_before, flat_after = dict(_flat(before)), dict(_flat(after))
    keys = sorted(flat_before.keys() | flat_after.keys())
    return [
        f"{key}: {flat_before.get(key)} -> {flat_after.get(key)}"
        for key in keys
        if flat_before.get(key) != flat_after.get(key)
    ]


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else key)
    elif isinstance(tree, list | tuple):
        for at, value in enumerate(tree):
            yield from _flat(value, f"{prefix}.{at}")
    else:
        yield prefix, tree
