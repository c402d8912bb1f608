"""From the text of a YAML file to plain values, or to one line that says where the text is wrong.

PyYAML takes the last of two equal keys and says nothing: a section that was pasted a second time would replace the
first. Here that is a mistake.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.errors import Mistake

if TYPE_CHECKING:
    import yaml


MERGE = "tag:yaml.org,2002:merge"
HINTS = {
    "mapping values are not allowed here": "a value with ': ' in it needs quotes, and the keys of a section stand "
    "below each other",
    "found character '\\t'": "indent with spaces, not with tabs",
    "expected <block end>": "the keys of a section, and the dashes of a list, stand below each other",
    "could not find expected ':'": "a key is followed by ': '",
}
"""What PyYAML says, and what people do about it."""


def values_of(text: str, where: str) -> Any:
    """What `yaml.safe_load` gives. Raises Mistake, naming `where`, if it is not YAML or gives a key twice."""
    import yaml

    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        for key, first, second in _repeated(node):
            raise Mistake(f"{where}: {key} is given twice ({_lines(first, second)}); keep one of them")
        return loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Mistake(
            f"{where}: not YAML: line {line} has the character {chr(int(error.character))!r}, which must not be there"
        ) from error
    except yaml.MarkedYAMLError as error:
        raise Mistake(f"{where}: not YAML: {_said(error)}") from error
    except (ValueError, RecursionError) as error:  # a date such as 2026-13-01
        raise Mistake(f"{where}: not YAML: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _repeated(root: "yaml.Node") -> Iterator[tuple[str, int, int]]:
    """Each key that a mapping has twice, as a path from the root, with the lines of both, the first being 1.

    `<<`, which merges another mapping in, may stand there more than once. A node that is used again by its alias is
    looked at once: it may lie within itself.
    """
    import yaml

    seen: set[int] = set()
    waiting: list[tuple[str, yaml.Node]] = [("", root)]
    while waiting:
        place, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(f"{place}.{at}".removeprefix("."), item) for at, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                name, line = f"{place}.{key.value}".removeprefix("."), key.start_mark.line + 1
                if (key.tag, key.value) in lines and key.tag != MERGE:
                    yield name, lines[key.tag, key.value], line
                lines.setdefault((key.tag, key.value), line)
                waiting.append((name, value))


def _lines(first: int, second: int) -> str:
    return f"line {first}" if first == second else f"lines {first} and {second}"


def _said(error: "yaml.MarkedYAMLError") -> str:
    """Where PyYAML stopped and why, and what usually leads there."""
    mark, began = error.problem_mark, error.context_mark
    problem = " ".join(str(error.problem).split())
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    hint = next((f"; {hint}" for part, hint in HINTS.items() if part in problem), "")
    if error.context is None or (began is not None and mark is not None and began.line == mark.line):
        return f"{where}{problem}{hint}"
    if error.context.startswith("expected"):  # one document, and there is another
        return f"{where}{error.context}, {problem}"
    since = f" that begins in line {began.line + 1}" if began is not None else ""
    return f"{where}{problem}, {' '.join(error.context.split())}{since}{hint}"
