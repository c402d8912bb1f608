"""Scorers: what rules compare with thresholds, counted for every text of a batch.

Each is a function `Marked -> {name: a number for each text}`. Its keyword-only parameters shape the numbers, so a
change of one means to count again; thresholds do not. Counts are stored and no shares, so that decisions are exact.

The kernels are imported when they are used: who only checks a config has no need of numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_prep.filters.characters import Marked
    from data_prep.texts import Int64s

    Columns = dict[str, Int64s]

HEAD_CHARACTERS_PER_LINE = 200
"""Of the head of a file, so that one of a single line is not read to its end."""


def characters(texts: Marked) -> Columns:
    """Bytes, characters, newlines, the longest line, '#', ellipses, bytes that are neither letter nor digit."""
    from data_prep.filters.characters import CHARACTER_SCORES, character_scores

    columns = _named(CHARACTER_SCORES, character_scores(texts.data, texts.kinds, texts.offsets))
    return {"num_bytes": texts.offsets[1:] - texts.offsets[:-1], **columns}


def words(texts: Marked) -> Columns:
    """Words, their characters, those without a letter, and how many of Gopher's stop words are there."""
    from data_prep.filters.words import WORD_SCORES, word_scores

    return _named(WORD_SCORES, word_scores(texts.data, texts.kinds, texts.offsets))


def ngrams(texts: Marked) -> Columns:
    """Characters in the most frequent 2- to 4-grams and in 5- to 10-grams that were there before."""
    from data_prep.filters.ngrams import NGRAM_SCORES, ngram_scores

    return _named(NGRAM_SCORES, ngram_scores(texts.data, texts.kinds, texts.offsets))


def lines(texts: Marked) -> Columns:
    """Lines and paragraphs: how many, how lines begin and end, which were there before."""
    from data_prep.filters.lines import LINE_SCORES, line_scores

    return _named(LINE_SCORES, line_scores(texts.data, texts.kinds, texts.offsets))


def short_lines(texts: Marked, *, short_line_length: int = 30) -> Columns:
    """Lines of at most so many characters."""
    from data_prep.filters.lines import short_line_scores

    return {"short_lines": short_line_scores(texts.data, texts.kinds, texts.offsets, short_line_length)}


def c4(texts: Marked) -> Columns:
    """Curly brackets, "lorem ipsum" and sentences."""
    from data_prep.filters.phrases import C4_SCORES, c4_scores

    return _named(C4_SCORES, c4_scores(texts.data, texts.kinds, texts.offsets))


def notes(texts: Marked, *, head_lines: int = 10) -> Columns:
    """Notes in the first lines that the file is generated."""
    from data_prep.filters.phrases import head_scores

    head_characters = HEAD_CHARACTERS_PER_LINE * head_lines
    return {"generated_notes": head_scores(texts.data, texts.kinds, texts.offsets, head_lines, head_characters)}


def _named(names: tuple[str, ...], rows: Int64s) -> Columns:
    return dict(zip(names, rows, strict=True))
