"""What each byte of a text is. The one place that decodes UTF-8 and asks Unicode; all other kernels look bytes up.

    data    c       a       f       é                            \\n
    kinds   LETTER  LETTER  LETTER  LETTER  LETTER|CONTINUATION  SPACE

So words are runs of bytes that are no SPACE, and characters are the bytes that are no CONTINUATION.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data_prep.filters.blocks import padded
from data_prep.native import kernel
from data_prep.texts import Bytes, Int64s, Texts

SPACE, LETTER, DIGIT, CONTINUATION, ENDS_SENTENCE, CLOSES = 1, 2, 4, 8, 16, 32
"""As `str.isspace`, `str.isalpha` and `str.isdecimal` have them; all but the first byte of a character; .!?; marks that
close a quotation or a bracket. Compiled kernels of other files hold these numbers."""
NEWLINE = ord("\n")
CONTINUATION_BIT = CONTINUATION.bit_length() - 1
NUM_CODES = 0x40000
"""Beyond these codes there are no letters, digits or spaces: planes 4 to 13 are empty, tags and private use follow."""


@dataclass(frozen=True, slots=True)
class Marked:
    """Texts with the kind of each byte, both padded: kernels look at a block of bytes at once."""

    data: Bytes
    kinds: Bytes
    offsets: Int64s

    def __len__(self) -> int:
        return len(self.offsets) - 1


def marked(texts: Texts) -> Marked:
    data = padded(texts.data)
    return Marked(data, kinds_of_bytes(data, kinds_of_codes()), texts.offsets)


@lru_cache(maxsize=1)
def kinds_of_codes() -> Bytes:
    """The kind of each character, by its code; made in a tenth of a second."""
    every = "".join(map(chr, range(NUM_CODES)))
    kinds = np.zeros(NUM_CODES, dtype=np.uint8)
    for kind, holds in ((SPACE, str.isspace), (LETTER, str.isalpha), (DIGIT, str.isdecimal)):
        kinds |= np.fromiter(map(holds, every), dtype=np.uint8, count=NUM_CODES) * np.uint8(kind)
    kinds[[ord(mark) for mark in ".!?"]] |= ENDS_SENTENCE
    kinds[[ord(mark) for mark in "\"'”’)]"]] |= CLOSES
    return kinds


@kernel
def kinds_of_bytes(data: Bytes, kinds_of_codes: Bytes) -> Bytes:
    kinds = np.empty(len(data), dtype=np.uint8)
    at = 0
    while at < len(data):
        lead = data[at]
        if lead < 0x80:
            kinds[at] = kinds_of_codes[lead]
            at += 1
            continue
        length = 2 + (lead >= 0xE0) + (lead >= 0xF0)
        code = lead & (0x7F >> length)
        end = min(at + length, len(data))
        for place in range(at + 1, end):
            code = code << 6 | data[place] & 0x3F
        kind = kinds_of_codes[code] if code < NUM_CODES else 0
        kinds[at] = kind
        kinds[at + 1 : end] = kind | CONTINUATION
        at = end
    return kinds


CHARACTER_SCORES = ("num_characters", "num_newlines", "longest_line", "num_hashes", "num_ellipses", "symbol_bytes")


@kernel
def character_scores(data: Bytes, kinds: Bytes, offsets: Int64s) -> Int64s:
    """`CHARACTER_SCORES`, a row each."""
    scores = np.zeros((6, len(offsets) - 1), dtype=np.int64)
    for text in range(len(offsets) - 1):
        bytes_, kinds_ = data[offsets[text] : offsets[text + 1]], kinds[offsets[text] : offsets[text + 1]]
        scores[0, text], scores[3, text], scores[5, text] = counts(bytes_, kinds_)
        newlines = longest = ellipses = line = dotted = 0
        continued = 0  # bytes that are no character of their own
        for at in range(len(bytes_)):
            byte = bytes_[at]
            continued += (kinds_[at] & CONTINUATION) != 0
            if byte == NEWLINE:
                longest = max(longest, at - continued - line)
                newlines, line = newlines + 1, at + 1 - continued
            elif byte == ord("."):
                if at >= dotted and at + 2 < len(bytes_) and bytes_[at + 1] == byte and bytes_[at + 2] == byte:
                    ellipses, dotted = ellipses + 1, at + 3
            elif byte == 0xE2 and bytes_[at + 1] == 0x80 and bytes_[at + 2] == 0xA6:  # …
                ellipses += 1
        scores[1, text], scores[2, text] = newlines, max(longest, len(bytes_) - continued - line)
        scores[4, text] = ellipses
    return scores


@kernel
def counts(data: Bytes, kinds: Bytes) -> tuple[int, int, int]:
    """Characters, '#', ASCII that is neither letter nor digit: a loop without branches, 16 bytes and more at a time."""
    characters = hashes = symbols = 0
    for at in range(len(data)):
        characters += (kinds[at] & CONTINUATION) == 0
        hashes += data[at] == ord("#")
        symbols += (data[at] < 0x80) & ((kinds[at] & (LETTER | DIGIT)) == 0)
    return characters, hashes, symbols
