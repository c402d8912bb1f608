"""Normalising: one spelling for what looks the same, so that equal texts have equal bytes.

Each function is `str -> str`, idempotent, and returns its argument itself when there is nothing to do: most documents
are clean.
"""

import re
import unicodedata

import numpy as np

from data_prep.mojibake import repair

STRAY = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\ufeff]")
"""C0 and C1 control characters but tab and newlines, and byte order marks."""


def clean(text: str) -> str:
    """Newlines as \\n, characters that a wrong decoding broke, no stray control characters, Unicode in NFC.

    Again until nothing changes: with a stray character gone, its neighbours may spell what the repair looks for.
    """
    while (once := normalize(without_stray_controls(repair(unix_newlines(text))))) != text:
        text = once
    return text


def unix_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def without_stray_controls(text: str) -> str:
    if text.isascii() and not _has_ascii_controls(text.encode()):
        return text
    return STRAY.sub("", text) if STRAY.search(text) else text


def _has_ascii_controls(data: bytes) -> bool:
    """Counts instead of searching: the expression runs at 90 MB/s, this at over 1 GB/s."""
    num_low = np.count_nonzero(np.frombuffer(data, dtype=np.uint8) < 32)
    return num_low != data.count(b"\n") + data.count(b"\t") or b"\x7f" in data


def normalize(text: str) -> str:
    """Canonical composition (Unicode Standard Annex 15). ASCII is its own NFC, and most text is ASCII."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", text)
