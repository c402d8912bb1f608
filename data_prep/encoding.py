"""The tasks around the tokenizer: its training sample, the tokenizer itself, and documents to tokens.

What is written of a part is a stream of tokens in shuffled order with an index beside it; held-out documents go apart.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from data_prep.cells import save_part
from data_prep.config import TokenizerConfig
from data_prep.heldout import Bound, held_out
from data_prep.pack import shuffled
from data_prep.parts import EncodeRecord, Part, SampleRecord
from data_prep.plan import read_tokenizer
from data_prep.stream import token_stream
from data_prep.texts import take, texts_from_arrow
from data_prep.tokenizer import TokenizerFacts, describe, load_encoder, train
from data_prep.tokenizer_files import tokenizer_json
from data_prep.work import Work

SAMPLE_DOCUMENT_BYTES = 1_000_000
"""What the tokenizer's training sees of one document at most."""
LEAST_CHECKED = 8
"""Documents of a source that both tokenizers encode, at least about."""


def sample_part(work: Work, name: str, part: Part, bound: Bound, limit: int) -> SampleRecord:
    """Writes those training documents whose sample key is below the limit: what the tokenizer is trained on."""
    table = work.load_array(part.keys, "keys.npy")
    chosen = table["row"][~held_out(table, bound) & (table["sample"] <= np.uint64(limit))]
    texts = work.load_table(part.docs, "docs.arrow")["text"].take(pa.array(chosen)).to_pylist()
    cut = [text[:SAMPLE_DOCUMENT_BYTES].decode(errors="ignore") for text in texts]
    work.save_table(name, "docs.arrow", pa.table({"text": pa.array(cut, pa.large_string())}))
    done = SampleRecord(text_bytes=sum(map(len, cut)))
    return work.save_record(name, done)


def make_tokenizer(work: Work, name: str, samples: Sequence[str]) -> TokenizerFacts:
    """Loads the tokenizer or trains it on the samples, in order of place."""
    texts = (text.as_py() for one in samples for text in work.load_table(one, "docs.arrow")["text"])
    data, facts = tokenizer_of(work.config.tokenizer, texts)
    with work.writing(name, "tokenizer") as file:
        file.write(data)
    return work.save_record(name, facts)


def tokenizer_of(settings: TokenizerConfig, texts: Iterable[str]) -> tuple[bytes, TokenizerFacts]:
    """A `tokenizer.json`, loaded or trained on the texts, and what it is."""
    if settings.train is None:
        assert settings.path is not None
        data = tokenizer_json(read_tokenizer(settings.path), settings.path, settings.end_of_text, settings.pattern)
    else:
        data = train(texts, settings.train.vocab_size, settings.end_of_text)
    return data, describe(data, settings.end_of_text, settings.path or "the trained tokenizer")


def encode_part(
    work: Work, name: str, part: Part, bound: Bound, halvings: int, tokenizer: str, facts: TokenizerFacts
) -> EncodeRecord:
    """Encodes a part's training documents and writes them in shuffled order; writes its held-out documents apart.

    `halvings`: see `checked_halvings`.
    """
    table = work.load_array(part.keys, "keys.npy")
    documents = work.load_table(part.docs, "docs.arrow")
    out = held_out(table, bound)
    if out.any():
        work.save_table(name, "heldout.arrow", documents.take(pa.array(table["row"][out])))
    table = table[~out]
    if len(table) < len(documents):
        documents = documents.take(pa.array(table["row"]))
    texts = texts_from_arrow(documents["text"].combine_chunks())

    encoder = load_encoder(work.file(tokenizer, "tokenizer"), facts.sha256, facts.backend)
    tokens, lengths = encoder.encode_texts(texts)
    starts = np.cumsum(lengths) - lengths
    agreed = encoder.fast is None or all(
        encoder.agrees(texts[place], tokens[starts[place] : starts[place] + lengths[place]])
        for place in np.flatnonzero(table["sample"] <= np.uint64((2**64 - 1) >> halvings)).tolist()
    )
    order = shuffled(table["shuffle"], table["high"], table["low"])
    stream = token_stream(tokens, lengths, order, facts.end_of_text_id, facts.token_dtype)
    ids = texts_from_arrow(documents["id"].cast(pa.large_string()).combine_chunks())
    save_part(work, name, table[order], lengths[order] + 1, stream, take(ids, order))
    done = EncodeRecord(
        name=name,
        agreed=agreed,
        num_documents=len(texts),
        text_bytes=int(table["size"].sum()),
        num_tokens=len(stream),
        heldout_documents=int(out.sum()),
    )
    return work.save_record(name, done)


def checked_halvings(num_documents: int) -> int:
    """How often the documents of a source are halved to get those that both tokenizers encode: 1 in 1,024, but some
    8 of a small source. A hash chooses them, so that the outcome does not depend on how the work is cut."""
    return min(10, max(0, (num_documents // LEAST_CHECKED).bit_length() - 1))
