"""Encoded documents to the token stream of a part, in one pass over the tokens.

tokens  |doc 0|doc 1  |doc 2 |         uint32, as they were encoded
stream  |doc 2 E|doc 0E|doc 1  E|      uint16 or uint32, in shuffled order, E: end-of-text
"""

import numpy as np

from data_prep.errors import DataMistake
from data_prep.native import kernel
from data_prep.pack import Int64s, Tokens


def token_stream(tokens: Tokens, lengths: Int64s, order: Int64s, end_of_text_id: int, token_dtype: str) -> Tokens:
    """The documents that `order` names, in that order, each with the end of text behind it.

    `lengths` are those of all documents in `tokens`. Raises DataMistake if a document holds the end of text.
    """
    starts = np.cumsum(lengths) - lengths
    stream = np.empty(int(lengths[order].sum()) + len(order), dtype=token_dtype)
    if _write_stream(tokens, starts, lengths, order, np.uint32(end_of_text_id), stream):
        raise DataMistake(
            "the tokenizer makes its end of text from ordinary text, which would fake document boundaries;"
            " set tokenizer.end_of_text to a token that only ends documents"
        )
    return stream


@kernel
def _write_stream(
    tokens: Tokens, starts: Int64s, lengths: Int64s, order: Int64s, end_of_text_id: np.uint32, stream: Tokens
) -> bool:
    """Fills `stream`; whether a document has the end of text among its own tokens."""
    place, faked = 0, False
    for document in order:
        # slices, whose indexes are known not to be negative, let the compiler take many tokens at once
        given = tokens[starts[document] : starts[document] + lengths[document]]
        written = stream[place : place + len(given)]
        for offset in range(len(given)):
            written[offset] = given[offset]
            faked |= given[offset] == end_of_text_id
        stream[place + len(given)] = end_of_text_id
        place += len(given) + 1
    return faked
