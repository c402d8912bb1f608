"""C4's rules: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer".

The thresholds on sentences, words a line and characters a word are those of datatrove's C4 filter, which FineWeb was
made with. The list of bad words is left out: it drops medical and minority text (Dodge et al. 2021).
"""

import re

TERMINAL = (".", "!", "?", '"', "'", "”", "’")
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)")


def c4_page(text: str) -> str | None:
    """Pages with the phrase "lorem ipsum" or a curly bracket."""
    if "{" in text:
        return "curly_bracket"
    return "lorem_ipsum" if "lorem ipsum" in text.lower() else None


def c4_lines(text: str, *, min_words_per_line: int = 3, max_word_length: int = 1_000) -> str:
    """Keeps lines that end in punctuation (but no ellipsis), without long words, "javascript" or policy notices."""
    if "[" in text:
        text = CITATION.sub("", text)
    lower = text.lower()
    marks = [mark for mark in ("javascript", *POLICY) if mark in lower]
    kept = []
    for line in text.split("\n"):
        line = line.strip()
        if not line.endswith(TERMINAL) or line.endswith("..."):
            continue
        if len(line.split(None, min_words_per_line - 1)) < min_words_per_line:
            continue
        if len(line) > max_word_length and max(map(len, line.split())) > max_word_length:
            continue
        if marks and any(mark in line.lower() for mark in marks):
            continue
        kept.append(line)
    return "\n".join(kept)


def c4_sentences(text: str, *, min_sentences: int = 5) -> str | None:
    """Pages of few sentences. A sentence ends in '.', '!' or '?' before white space; no model is asked."""
    for found, _ in enumerate(SENTENCE_END.finditer(text), start=1):
        if found >= min_sentences:
            return None
    return "too_few_sentences" if min_sentences > 0 else None
