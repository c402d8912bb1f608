"""From a YAML file and overrides to a RunConfig, or to one line about what is wrong with them."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config.checks import check
from pipeline.config.tree import RunConfig
from pipeline.config.wording import wording
from pipeline.config.yaml_text import values_of
from pipeline.errors import Mistake


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a run's YAML file and applies `section.key=value` overrides. Raises Mistake with one line a user can act
    on."""
    from pydantic import TypeAdapter, ValidationError

    try:
        text = path.read_text()
    except FileNotFoundError:
        raise Mistake(
            f"{path}: no such config file; give the path of a YAML file, for example configs/quickstart.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"{path}: cannot be read as a config: {error}") from error
    tree = values_of(text, str(path))
    if not isinstance(tree, dict):
        raise Mistake(f"{path}: a run's config is a mapping with the keys {', '.join(_fields(RunConfig))}")
    for override in overrides:
        _override(tree, override)
    try:
        config = TypeAdapter(RunConfig).validate_python(tree)
    except ValidationError as error:
        raise Mistake(f"{path}: {_first_problem(error.errors())}") from None
    check(config)
    return config


def _override(tree: dict[str, Any], override: str) -> None:
    """Sets one `section.key=value` in a tree of dicts and lists."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise Mistake(f"'{override}' is not of the form section.key=value, for example train.optimizer.lr=3e-4")
    *parents, last = key.split(".")
    node: Any = tree
    for parent in parents:
        if isinstance(node, list):
            node = node[_index(node, parent, key)]
            continue
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict | list):
            raise Mistake(f"{key}: '{parent}' holds {node!r}, which has no keys of its own")
    value = values_of(text, key)
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    else:
        node[last] = value


def _index(items: list[Any], text: str, key: str) -> int:
    if not text.isdigit() or int(text) >= len(items):
        raise Mistake(f"{key}: '{text}' is not a place in a list of {len(items)} (the first is 0)")
    return int(text)


UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")
MISSING = ("missing", "missing_argument")
"""What pydantic calls them."""


def _first_problem(errors: Sequence[Any]) -> str:
    """One line about pydantic's first complaint: the key, what is wrong, and the nearest key where one is unknown.

    About a value that may have one of several types it complains once for each: the complaint that goes deepest is that
    of the type that was meant. A key that is missing may just be misspelled: then the unknown one beside it is told.
    """
    first = _keys(errors[0]["loc"])
    same = (one for one in errors if _keys(one["loc"])[: len(first)] == first)
    error = max(same, key=lambda one: (len(one["loc"]), one["type"] in UNKNOWN_KEY))
    if error["type"] in MISSING:
        beside = (one for one in errors if one["type"] in UNKNOWN_KEY and _keys(one["loc"])[:-1] == first[:-1])
        error = next(beside, error)
    location = _keys(error["loc"])
    key = ".".join(location)
    if error["type"] in UNKNOWN_KEY:
        known = _known_keys(RunConfig, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if error["type"] in MISSING:
        return f"{key}: missing; add it"
    return f"{key}: {wording([one for one in errors if _keys(one['loc']) == location])}"


def _fields(cls: type) -> list[str]:
    return [item.name for item in dataclasses.fields(cls)]


def _known_keys(cls: type, location: Sequence[str]) -> list[str]:
    """The keys that the dataclass at a place in the tree has."""
    node: Any = cls
    for part in location:
        node = node if part.isdigit() else typing.get_type_hints(node)[part]
        node = _dataclass_inside(node)
    return _fields(node)


def _keys(location: Sequence[str | int]) -> list[str]:
    """Where a value stands in the tree: pydantic's location without the types that it names behind the key of a value
    that may have several."""
    keys: list[str] = []
    hint: Any = RunConfig
    parts = iter(map(str, location))
    for part in parts:
        arms = [one for one in _arms(hint) if one is not types.NoneType]
        if len(arms) > 1:  # this part is one of them
            part = next(parts, "")
            if not part:
                break
        keys.append(part)
        inside = (_inside(arm, part) for arm in arms)
        hint = next((one for one in inside if one is not None), None)
    return keys


def _arms(hint: Any) -> tuple[Any, ...]:
    """The types that a value may have."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _inside(hint: Any, part: str) -> Any:
    """The type of what stands in a value of a type, under a key or at a place; None if nothing does."""
    if dataclasses.is_dataclass(hint):
        return typing.get_type_hints(hint).get(part)
    held = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and part.isdigit():
        return held[0] if held[-1] is ... else held[min(int(part), len(held) - 1)]
    return held[1] if typing.get_origin(hint) is dict and not part.isdigit() else None


def _dataclass_inside(hint: Any) -> Any:
    """`tuple[Source, ...]` -> Source, `Promote | None` -> Promote; the hint itself if there is none."""
    if dataclasses.is_dataclass(hint):
        return hint
    inside = (_dataclass_inside(part) for part in typing.get_args(hint))
    return next((part for part in inside if dataclasses.is_dataclass(part)), hint)
