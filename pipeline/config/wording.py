"""What pydantic complains about, in words for people who write YAML and not Python: a list, not a tuple."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

WANTED = {
    "a whole number": ("int_type", "int_parsing", "int_parsing_size", "int_from_float"),
    "a number": ("float_type", "float_parsing"),
    "true or false": ("bool_type", "bool_parsing"),
    "text": ("string_type",),
    "a list": ("tuple_type", "list_type"),
    "a section with keys of its own": ("dict_type", "dataclass_type"),
}
"""What a value must be -> how pydantic calls it that it is not."""

LONGEST = 100
"""Characters of a value that are shown."""


def wording(errors: Sequence[Any]) -> str:
    """What is wrong with one value. `errors` has pydantic's complaint for each type that it may have."""
    first = errors[0]
    value, kind = first["input"], first["type"]
    if kind == "literal_error":
        return _choice(value, [one or other for one, other in CHOICES.findall(first["ctx"]["expected"])])
    if kind == "value_error":  # our own words, with the value in them
        return str(first["ctx"]["error"])
    if kind == "too_long":
        return f"must have at most {first['ctx']['max_length']} items, but has {first['ctx']['actual_length']}"
    wanted = [what for what, kinds in WANTED.items() if any(error["type"] in kinds for error in errors)]
    if not wanted:
        return f"{first['msg']}, but the value is {_shown(value)}"
    if "a number" in wanted and "a whole number" in wanted:
        wanted.remove("a whole number")
    return f"must be {' or '.join(wanted)}, but the value is {_shown(value)}{_way_out(value, wanted)}"


CHOICES = re.compile(r"'([^']*)'|(\d+)")
"""Of pydantic's `'local', 'slurm' or 'ray'`."""


def _choice(value: Any, choices: Sequence[str]) -> str:
    said = f"must be {' or '.join(filter(None, [', '.join(choices[:-1]), choices[-1]]))}, but the value is "
    if isinstance(value, bool):
        return f"{said}{_shown(value)}; YAML reads on, off, yes and no as true and false"
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
    return f"{said}{_shown(value)}" + (f"; did you mean {near[0]}?" if near else "")


def _shown(value: Any) -> str:
    """As YAML has it, and not at any length."""
    if value is None:
        return "empty"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _way_out(value: Any, wanted: Sequence[str]) -> str:
    if "a whole number" in wanted and isinstance(value, str) and (number := _whole(value)) is not None:
        return f"; write {number:_}"
    if wanted == ["a list"] and isinstance(value, str):
        return f"; write [{value}]"
    if wanted == ["text"] and isinstance(value, bool | int | float):
        return "; put it in quotes"
    return ""


def _whole(text: str) -> int | None:
    """What YAML takes for text though people mean a number: 1e9."""
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None
