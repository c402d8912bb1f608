"""Text for benchmarks that only want tokens: random letters of an alphabet as large as a vocabulary, a token a letter,
in a corpus like any other."""

from pathlib import Path

import numpy as np

from data_prep.manifest import Manifest
from data_prep.small import write_small_corpus

END_OF_TEXT = "<|endoftext|>"
FIRST_LETTER = 0x100


def write_letters(
    folder: Path, num_tokens: int, *, vocab_size: int, sequence_length: int, document_tokens: int
) -> Manifest:
    """A corpus of at least `num_tokens`, all of them in documents of `document_tokens`, end of text (id 0) included.

    Every other token is equally likely. The vocabulary is at most 54,000: beyond it code points are no letters.
    """
    length = document_tokens - 1
    letters = np.random.default_rng(0).integers(
        FIRST_LETTER, FIRST_LETTER + vocab_size - 1, size=(-(-num_tokens // document_tokens), length), dtype="<u4"
    )
    documents = [(f"d{at}", row.tobytes().decode("utf-32-le")) for at, row in enumerate(letters)]
    return write_small_corpus(
        folder,
        {"letters": documents},
        sequence_length=sequence_length,
        sequences_per_shard=16_384,
        tokenizer_json=letter_tokenizer(vocab_size),
        end_of_text=END_OF_TEXT,
    )


def letter_tokenizer(vocab_size: int) -> bytes:
    """A `tokenizer.json` of the end of text (id 0) and `vocab_size - 1` letters."""
    from tokenizers import AddedToken, Tokenizer, models

    vocab = {END_OF_TEXT: 0} | {chr(FIRST_LETTER + at): at + 1 for at in range(vocab_size - 1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return str(tokenizer.to_str()).encode()
