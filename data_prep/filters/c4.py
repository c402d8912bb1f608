"""C4's rules: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer".

The thresholds on sentences, words a line and characters a word are those of datatrove's C4 filter, which FineWeb was
made with. The list of bad words is left out: it drops medical and minority text (Dodge et al. 2021).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_prep.filters.scored import Reasons, Scores

if TYPE_CHECKING:
    from data_prep.filters.characters import Marked
    from data_prep.texts import Texts


def c4_page(scores: Scores) -> Reasons:
    """Pages with the phrase "lorem ipsum" or a curly bracket."""
    yield "curly_bracket", scores["curly_brackets"] > 0
    yield "lorem_ipsum", scores["lorem_ipsum"] > 0


def c4_lines(texts: Marked, *, min_words_per_line: int = 3, max_word_length: int = 1_000) -> Texts:
    """Keeps lines that end in punctuation (but no ellipsis), without long words, "javascript" or policy notices."""
    from data_prep.filters.phrases import kept_lines
    from data_prep.texts import Texts

    return Texts(*kept_lines(texts.data, texts.kinds, texts.offsets, min_words_per_line, max_word_length))


def c4_sentences(scores: Scores, *, min_sentences: int = 5) -> Reasons:
    """Pages of few sentences. A sentence ends in '.', '!' or '?' before white space; no model is asked."""
    yield "too_few_sentences", scores["sentences"] < min_sentences
