"""FineWeb's own rules: Penedo et al. 2024, "The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale".

FineWeb applies them after Gopher's and C4's. Words are what stands between white space; datatrove's tokenizer counts
punctuation too, so a newline per word weighs a little more here.
"""

from data_prep.filters.scored import Reasons, Scores


def fineweb_quality(
    scores: Scores,
    *,
    min_punctuated_lines: float = 0.12,
    max_short_lines: float = 0.67,
    max_duplicate_line_characters: float = 0.01,
    max_newlines_per_word: float = 0.3,
) -> Reasons:
    """Lines that end in punctuation, short lines, characters in repeated lines, newlines per word (lists)."""
    lines, newlines = scores["num_lines"], scores["num_newlines"]
    yield "punctuated_lines", scores["punctuated_lines"] < min_punctuated_lines * lines
    yield "short_lines", scores["short_lines"] > max_short_lines * lines
    most = max_duplicate_line_characters * (scores["num_characters"] - newlines)
    yield "repeated_line_characters", scores["duplicate_line_characters"] > most
    yield "newlines_per_word", newlines > max_newlines_per_word * scores["num_words"]
