"""Writes real text that every Python has into a folder: the standard library, as two sources.

    python configs/quickstart_text.py OUT_FOLDER

`code-*.jsonl.zst` holds the library's .py files without its tests. `prose-*.jsonl.zst` holds the language reference
(`pydoc_data.topics`) and, one document a module, the library's docstrings. Files are parsed and never imported. Each
line is {"id", "text"}; equal interpreters give equal bytes. Does nothing where the text already is.
"""

import ast
import inspect
import json
import os
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import zstandard

FILE_BYTES = 8_000_000
"""Text in one file: a few files a source, so that both cores have work."""
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3"}
TOPICS = "pydoc_data/topics.py"
DONE = "quickstart_text.json"

Texts = Iterator[tuple[str, str]]
"""(id, text) pairs."""


def library_files(library: Path) -> list[Path]:
    """The library's modules, sorted by name: no tests, no installed packages."""
    found = (path for path in library.rglob("*.py") if not SKIPPED.intersection(path.relative_to(library).parts))
    return sorted(found, key=lambda path: path.relative_to(library).as_posix())


def code(library: Path) -> Texts:
    for path in library_files(library):
        name = path.relative_to(library).as_posix()
        if name != TOPICS:  # it is prose in a dict
            yield name, path.read_text(encoding="utf-8", errors="replace")


def prose(library: Path) -> Texts:
    for topic, text in sorted(topics(library).items()):
        yield f"topic/{topic}", text
    for path in library_files(library):
        name = path.relative_to(library).as_posix()
        if name != TOPICS and (text := docstrings(path)):
            yield f"docstrings/{name}", text


def topics(library: Path) -> dict[str, str]:
    """The language reference: the one dict literal of `pydoc_data/topics.py`."""
    for node in ast.walk(_parsed(library / TOPICS)):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    return {}


def docstrings(path: Path) -> str:
    """All docstrings of a module, in the order in which they stand."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(_parsed(path)) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    found = (ast.get_docstring(node, clean=False) for node in nodes)
    return "\n\n".join(inspect.cleandoc(text) for text in found if text and text.strip())


def _parsed(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in the library's own strings
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a template, or a file in a wrong encoding on purpose
            return ast.Module(body=[], type_ignores=[])


def write_files(folder: Path, source: str, texts: Texts) -> int:
    """Writes SOURCE-000.jsonl.zst and so on. Returns the number of documents."""
    lines: list[bytes] = []
    number = documents = size = 0
    for document_id, text in texts:
        line = json.dumps({"id": document_id, "text": text}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        if size and size + len(line) > FILE_BYTES:
            _write(folder / f"{source}-{number:03d}.jsonl.zst", zstandard.compress(b"".join(lines), level=6))
            lines, size, number = [], 0, number + 1
        lines.append(line)
        size += len(line)
        documents += 1
    _write(folder / f"{source}-{number:03d}.jsonl.zst", zstandard.compress(b"".join(lines), level=6))
    return documents


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), 0o644)
    Path(temporary).replace(path)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python configs/quickstart_text.py OUT_FOLDER")
    folder = Path(sys.argv[1])
    if (folder / DONE).exists():
        print(f"{folder} has the text already")
        return
    folder.mkdir(parents=True, exist_ok=True)
    library = Path(sysconfig.get_paths()["stdlib"])
    counts = {source.__name__: write_files(folder, source.__name__, source(library)) for source in (code, prose)}
    _write(folder / DONE, json.dumps({"python": sys.version.split()[0], "documents": counts}).encode() + b"\n")
    print(f"{folder}: {counts['code']} files of code, {counts['prose']} documents of prose")


if __name__ == "__main__":
    main()
