"""Writes docs/config.md: every key of a run's YAML file, from the docstrings that stand under the fields.

    python -m tests.config_page > docs/config.md

A test compares the page with what this would write.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from pipeline.config import RunConfig

HEAD = """# Every key of a run's file

A run is one YAML file, and any key can be given on the command line too: `headrace run mine.yaml train.optimizer.lr=3e-4
data.sources.0.weight=0.3`. An unknown key is an error that names the nearest one. Changing what shapes the
weights asks for another `name`: `data` but for its cache and its work folder, `model` but for how it is computed ([model.md](model.md)), and `train` but for `zero`,
`micro_batch_size`, `sequence_parallel`, `checkpoint` and `guard`.
"""
FOOT = """
<!-- Written by python -m tests.config_page > docs/config.md from the docstrings in the code. -->"""


def page() -> str:
    sections = (section(cls, at) for cls, at in walk(RunConfig, ""))
    return "\n".join([HEAD, *sections]) + FOOT + "\n"


def walk(cls: type, at: str) -> Iterator[tuple[type, str]]:
    """Each dataclass of the config's tree, with where it stands in it."""
    yield cls, at
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        for inner, suffix in inside(hints[item.name]):
            yield from walk(inner, f"{at}.{item.name}{suffix}".removeprefix("."))


def inside(hint: Any, suffix: str = "") -> Iterator[tuple[type, str]]:
    """Dataclasses in a field's type; `[]` marks those of a list."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint, suffix
    for part in typing.get_args(hint):
        yield from inside(part, "[]" if typing.get_origin(hint) is tuple else suffix)


def section(cls: type, at: str) -> str:
    said = docstrings(cls)
    hints = typing.get_type_hints(cls)
    rows = []
    for item in dataclasses.fields(cls):
        links = [
            f"[below](#{anchor(f'{at}.{item.name}{suffix}'.removeprefix('.'))})"
            for _, suffix in inside(hints[item.name])
        ]
        means = " ".join([*filter(None, [said.get(item.name)]), *links])
        rows.append(f"| `{item.name}` | {default(item)} | {means} |")
    title = f"## {at}\n\n" if at else ""
    return f"{title}| key | default | what it is |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"


def anchor(title: str) -> str:
    """What GitHub makes of a title."""
    return re.sub(r"[^a-z0-9_-]", "", title.lower())


def docstrings(cls: type) -> dict[str, str]:
    """The text under each field."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found, name = {}, ""
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            found[name] = " ".join(str(node.value.value).split()).replace("|", "\\|")
            name = ""
    return found


def default(item: Any) -> str:
    """As YAML has it."""
    if item.default_factory is not dataclasses.MISSING:
        return "its own"
    if item.default is dataclasses.MISSING:
        return "must be given"
    if item.default is None:
        return "none"
    if isinstance(item.default, bool):
        return f"`{str(item.default).lower()}`"
    if isinstance(item.default, tuple):
        return f"`[{', '.join(map(str, item.default))}]`"
    return f"`{re.sub(r'(?<=[0-9])(?=(?:[0-9]{3})+$)', '_', str(item.default))}`"


if __name__ == "__main__":
    print(page(), end="")
