"""Unicode repair: text that was decoded by the wrong table, such as "cafÃ©" for "café", gets its characters back.

ftfy knows how, at about 2 MB/s. So only lines are shown to it that hold what UTF-8 looks like when it is read as
something else: a lead byte's letter before a continuation byte's sign. Ordinary French or German has no such pair.
"""

import re

CONTINUATIONS = bytes(range(0x80, 0xC0)).decode("latin-1") + "".join(
    bytes([b]).decode("cp1252") for b in range(0x80, 0xA0) if b not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
)
SIGNS = re.compile(rf"[\u00c2-\u00f4][{CONTINUATIONS}]|вЂ|‚Ä")
"""UTF-8 read as Latin-1 or Windows-1252; typographic quotes read as Windows-1251 or Mac Roman."""


def repair(text: str) -> str:
    if text.isascii() or not SIGNS.search(text):
        return text
    from ftfy import fix_encoding

    return "\n".join(fix_encoding(line) if SIGNS.search(line) else line for line in text.split("\n"))
