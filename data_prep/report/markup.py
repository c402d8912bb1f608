"""HTML from Python values: what is not `Html` is data from the wild and is escaped, always.

Characters that a reader could not see, or that would turn the text around it, are shown by their code points.
"""

import re
from html import escape


class Html(str):
    """Markup that may go into a page as it is. Only `element` and `joined` make it."""

    __slots__ = ()


INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\ud800-\udfff\ufeff\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
"""Control, format and bidi characters and no characters; not the joiners, which Persian, Hindi and emoji need."""
VOID = ("meta", "br")


def element(name: str, /, *children: str | None, **attributes: str | int | float | None) -> Html:
    """An element. `class_` stands for `class`, `_` for `-`; children and attributes that are None are left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_shown_plain(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{given}/>")
    return Html(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: str | None) -> Html:
    """Markup as it is and everything else escaped, one behind the other."""
    return Html("".join(child if isinstance(child, Html) else shown(child) for child in children if child is not None))


def shown(text: str) -> Html:
    """Text as data: escaped, and what is invisible in it marked."""
    pieces, end = [], 0
    for found in INVISIBLE.finditer(text):
        pieces += [escape(text[end : found.start()]), f'<i class="code">{_code(found)}</i>']
        end = found.end()
    return Html("".join([*pieces, escape(text[end:])]))


def _shown_plain(text: str) -> str:
    return INVISIBLE.sub(_code, text)


def _code(found: re.Match[str]) -> str:
    return f"U+{ord(found[0]):04X}"


def cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"
