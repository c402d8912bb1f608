"""Gopher's rules: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", A1.1.

Words are what stands between white space.
"""

from data_prep.filters.scored import Reasons, Scores


def gopher_quality(
    scores: Scores,
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
) -> Reasons:
    """Number and length of words, '#' and ellipses per word, bullet and ellipsis lines, letters, stop words."""
    words, lines = scores["num_words"], scores["num_lines"]
    yield "too_few_words", words < min_words
    yield "too_many_words", words > max_words
    some = words > 0
    mean = scores["word_characters"] / (words + ~some)
    yield "mean_word_length", some & ~((min_mean_word_length <= mean) & (mean <= max_mean_word_length))
    most = max_symbols_per_word * words
    yield "symbols_per_word", (scores["num_hashes"] > most) | (scores["num_ellipses"] > most)
    yield "bullet_lines", scores["bullet_lines"] > max_bullet_lines * lines
    yield "ellipsis_lines", scores["ellipsis_lines"] > max_ellipsis_lines * lines
    yield "words_without_letters", words - scores["words_without_letter"] < min_words_with_letter * words
    yield "stop_words", some & (scores["stop_words"] < min_stop_words)


def gopher_repeated_lines(
    scores: Scores, *, max_duplicates: float = 0.3, max_duplicate_characters: float = 0.2
) -> Reasons:
    """Duplicate lines and paragraphs, as a share of them by count and of the text by characters (table A1)."""
    most = max_duplicate_characters * scores["num_characters"]
    for one in ("line", "paragraph"):
        yield f"duplicate_{one}s", scores[f"duplicate_{one}s"] > max_duplicates * scores[f"num_{one}s"]
        yield f"duplicate_{one}s_characters", scores[f"duplicate_{one}_characters"] > most


def gopher_top_ngrams(
    scores: Scores, *, max_top_2gram: float = 0.20, max_top_3gram: float = 0.18, max_top_4gram: float = 0.16
) -> Reasons:
    """Share of characters of words in the most frequent 2-, 3- and 4-gram (table A1)."""
    for n, limit in enumerate((max_top_2gram, max_top_3gram, max_top_4gram), start=2):
        yield f"top_{n}gram", scores[f"top_{n}gram_characters"] > limit * scores["word_characters"]


def gopher_duplicate_ngrams(
    scores: Scores,
    *,
    max_duplicate_5gram: float = 0.15,
    max_duplicate_6gram: float = 0.14,
    max_duplicate_7gram: float = 0.13,
    max_duplicate_8gram: float = 0.12,
    max_duplicate_9gram: float = 0.11,
    max_duplicate_10gram: float = 0.10,
) -> Reasons:
    """Share of characters of words in 5- to 10-grams that were there before; each character counts once (table A1)."""
    limits = (
        *(max_duplicate_5gram, max_duplicate_6gram, max_duplicate_7gram),
        *(max_duplicate_8gram, max_duplicate_9gram, max_duplicate_10gram),
    )
    for n, limit in enumerate(limits, start=5):
        yield f"duplicate_{n}gram", scores[f"duplicate_{n}gram_characters"] > limit * scores["word_characters"]
