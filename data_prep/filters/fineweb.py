"""FineWeb's own rules: Penedo et al. 2024, "The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale".

FineWeb applies them after Gopher's and C4's. Words are what stands between white space; datatrove's tokenizer counts
punctuation too, so a newline per word weighs a little more here.
"""

from data_prep.filters.pieces import lines_of, num_repeats
from data_prep.filters.words import words_of

LINE_ENDS = (".", "!", "?", '"', "'", "”", "’", "…", "。", "！", "？")


def fineweb_quality(
    text: str,
    *,
    min_punctuated_lines: float = 0.12,
    short_line_length: int = 30,
    max_short_lines: float = 0.67,
    max_duplicate_line_characters: float = 0.01,
    max_newlines_per_word: float = 0.3,
) -> str | None:
    """Lines that end in punctuation, short lines, characters in repeated lines, newlines per word (lists)."""
    lines = lines_of(text)
    if len([1 for line in lines if line.endswith(LINE_ENDS)]) < min_punctuated_lines * len(lines):
        return "punctuated_lines"
    if len([1 for line in lines if len(line) <= short_line_length]) > max_short_lines * len(lines):
        return "short_lines"
    num_newlines = text.count("\n")
    if num_repeats(lines)[1] > max_duplicate_line_characters * (len(text) - num_newlines):
        return "repeated_line_characters"
    if num_newlines > max_newlines_per_word * len(words_of(text)):
        return "newlines_per_word"
    return None
