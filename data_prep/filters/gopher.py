"""Gopher's rules: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", A1.1.

Words are what stands between white space.
"""

from data_prep.filters.pieces import lines_of, num_repeats, paragraphs_of
from data_prep.filters.words import num_without_letter, words_of

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
HEAD_CHARACTERS = 2_000
"""Nearly every text has its stop words in its head, and splitting and hashing the rest costs."""


def gopher_quality(
    text: str,
    *,
    min_words: int = 50,
    max_words: int = 100_000,
    min_mean_word_length: float = 3.0,
    max_mean_word_length: float = 10.0,
    max_symbols_per_word: float = 0.1,
    max_bullet_lines: float = 0.9,
    max_ellipsis_lines: float = 0.3,
    min_words_with_letter: float = 0.8,
    min_stop_words: int = 2,
) -> str | None:
    """Number and length of words, '#' and ellipses per word, bullet and ellipsis lines, letters, stop words."""
    words = words_of(text)
    if len(words) < min_words:
        return "too_few_words"
    if len(words) > max_words:
        return "too_many_words"
    if not len(words):
        return None
    if not min_mean_word_length <= words.num_characters / len(words) <= max_mean_word_length:
        return "mean_word_length"
    most = max_symbols_per_word * len(words)
    if text.count("#") > most or text.count("...") + text.count("…") > most:
        return "symbols_per_word"
    lines = lines_of(text)
    if len([1 for line in lines if line.lstrip().startswith(("•", "-", "*"))]) > max_bullet_lines * len(lines):
        return "bullet_lines"
    ellipses = [line for line in lines if line.rstrip().endswith(("...", "…"))] if "..." in text or "…" in text else []
    if len(ellipses) > max_ellipsis_lines * len(lines):
        return "ellipsis_lines"
    if len(words) - num_without_letter(text) < min_words_with_letter * len(words):
        return "words_without_letters"
    if not any(len(STOP_WORDS.intersection(some.split())) >= min_stop_words for some in (_head(text), text)):
        return "stop_words"
    return None


def _head(text: str) -> str:
    """The first words; the last, which may be cut, is left out."""
    return text if len(text) <= HEAD_CHARACTERS else text[:HEAD_CHARACTERS].rpartition(" ")[0]


def gopher_repeated_lines(
    text: str, *, max_duplicates: float = 0.3, max_duplicate_characters: float = 0.2
) -> str | None:
    """Duplicate lines and paragraphs, as a share of them by count and of the text by characters (table A1)."""
    for what, pieces in (("lines", lines_of(text)), ("paragraphs", paragraphs_of(text))):
        repeats, characters = num_repeats(pieces)
        if repeats > max_duplicates * len(pieces):
            return f"duplicate_{what}"
        if characters > max_duplicate_characters * len(text):
            return f"duplicate_{what}_characters"
    return None
