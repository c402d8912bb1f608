"""Words: what stands between white space, as `str.split` gives them."""

import numpy as np

from data_prep.filters.characters import CONTINUATION, LETTER, SPACE
from data_prep.native import kernel
from data_prep.texts import Bytes, Int64s

WORD_SCORES = ("num_words", "word_characters", "words_without_letter", "stop_words")
STOP_WORDS = np.array(
    [int.from_bytes(word, "big") for word in (b"the", b"be", b"to", b"of", b"and", b"that", b"have", b"with")]
)
"""Gopher's, each as the number that its bytes make."""
LONGEST_STOP_WORD = 4


@kernel
def word_scores(data: Bytes, kinds: Bytes, offsets: Int64s) -> Int64s:
    """`WORD_SCORES`, a row each. `stop_words` counts those that are there, each once."""
    scores = np.zeros((4, len(offsets) - 1), dtype=np.int64)
    for text in range(len(offsets) - 1):
        bytes_, kinds_ = data[offsets[text] : offsets[text + 1]], kinds[offsets[text] : offsets[text + 1]]
        words = characters = without_letter = seen = 0
        length = any_kind = number = 0  # of the word so far
        for at in range(len(bytes_) + 1):
            kind = kinds_[at] if at < len(bytes_) else SPACE
            if not kind & SPACE:
                characters += (kind & CONTINUATION) == 0
                length, any_kind, number = length + 1, any_kind | kind, number << 8 | bytes_[at]
            elif length:
                words += 1
                without_letter += (any_kind & LETTER) == 0
                if length <= LONGEST_STOP_WORD:
                    for place in range(len(STOP_WORDS)):
                        seen |= (STOP_WORDS[place] == number) << place
                length = any_kind = number = 0
        scores[0, text], scores[1, text], scores[2, text] = words, characters, without_letter
        while seen:
            scores[3, text] += seen & 1
            seen >>= 1
    return scores
