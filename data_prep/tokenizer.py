"""Train, load and encode; the fast path and its check.

`tokenizers` says what is right, gigatoken says it some fifty times faster. A sampled share of the documents is
encoded by both; on a difference the whole build is encoded by `tokenizers`, and the manifest records it. Text never
makes a special token: a document that spells the end of text would fake a document boundary.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.config import check_vocab_size
from data_prep.errors import DataMistake
from data_prep.pack import Int64s, Tokens
from data_prep.texts import Texts, texts_of

FAST, EXACT = "gigatoken", "tokenizers"
LONG_BYTES = 1_000_000
"""Longer documents are encoded in pieces: `tokenizers` needs about 150 bytes of memory a token (tokenizers#1539)."""
NEVER_IN_UTF8 = b"\xff"
PROBE = (
    "  A text that isn't plain: I'M, we'LL\tand\n\n  \n so on...\n    x = 1234567 + 12 // 3;  </s> <0x0A> ▁▁ "
    "<|endoftext|> Größe, cafe\u0301, ½ ﬁ Ⅷ １２ İǅ; 漢字かな 한국어 हिन्दी ไทย العربية 😀👨‍👩‍👧\u00a0\u3000\u2028 e \n "
)
"""What a tokenizer is tried on before gigatoken is trusted with it."""


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """What the build needs to know of a tokenizer."""

    sha256: str
    vocab_size: int
    end_of_text_id: int
    token_dtype: str
    backend: str
    """The fastest that can load it."""


def train(texts: Iterable[str], vocab_size: int, end_of_text: str) -> bytes:
    """A byte-level BPE (Sennrich et al. 2016; Radford et al. 2019 for bytes) as the bytes of a `tokenizer.json`.

    Equal texts give equal bytes, whatever their order and the number of threads: merges go by count, ties by id. The
    bytes are those that `tokenizers` would train; gigatoken took 0.7 s for 13 MB where that took 7.9 s. The end of text
    has id 0. Raises DataMistake if the texts do not yield `vocab_size` tokens.
    """
    import gigatoken
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    check_vocab_size(vocab_size)
    with _silent():
        _, merges = gigatoken.train_bpe(
            NEVER_IN_UTF8.join(text.encode() for text in texts), vocab_size, [end_of_text], separator=NEVER_IN_UTF8
        )
    spelled = byte_alphabet()
    pairs = [("".join(spelled[b] for b in left), "".join(spelled[b] for b in right)) for left, right in merges]
    vocab = {end_of_text: 0} | {symbol: place for place, symbol in enumerate(sorted(spelled), start=1)}
    for left, right in pairs:
        vocab.setdefault(left + right, len(vocab))
    if len(vocab) < vocab_size:
        raise DataMistake(
            f"tokenizer.train.vocab_size: the text yields only {len(vocab)} tokens, not {vocab_size};"
            f" give {len(vocab)} or less, or more text"
        )
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(end_of_text, special=True, normalized=False)])
    return str(tokenizer.to_str(pretty=True)).encode()


def hidden(name: str) -> str:
    """The name in a vocabulary of a special token that its model would otherwise find in text, spaces standing for
    something else there."""
    return " " + name


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


@contextmanager
def _silent() -> Iterator[None]:
    """gigatoken's trainer prints from Rust, to descriptors that may carry a `--json` record."""
    kept = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor, _ in kept:
            os.dup2(nowhere, descriptor)
        yield
    finally:
        for descriptor, copy in kept:
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nowhere)


def describe(tokenizer_json: bytes, end_of_text: str, where: str) -> TokenizerFacts:
    """Checks a `tokenizer.json` and that it has the end of text. Raises DataMistake, naming `where`, if not."""
    try:
        exact = _load_exact(tokenizer_json)
    except Exception as error:  # the library raises bare Exception
        raise DataMistake(
            f"{where} is no Hugging Face tokenizer.json, tiktoken rank file or SentencePiece model ({error});"
            " give one that is"
        ) from error
    ids = [exact.token_to_id(name) for name in (end_of_text, hidden(end_of_text))]
    end_of_text_id = next((one for one in ids if one is not None), None)
    if end_of_text_id is None:
        raise DataMistake(
            f"{where} has no token {end_of_text!r}; set tokenizer.end_of_text to the one that ends a document"
        )
    vocab_size = max(exact.get_vocab(with_added_tokens=True).values()) + 1
    return TokenizerFacts(
        sha256=hashlib.sha256(tokenizer_json).hexdigest(),
        vocab_size=vocab_size,
        end_of_text_id=end_of_text_id,
        token_dtype="uint16" if vocab_size <= 2**16 else "uint32",
        backend=FAST if _is_fast(tokenizer_json, exact) else EXACT,
    )


def _is_fast(tokenizer_json: bytes, exact: Any) -> bool:
    """Whether gigatoken loads the tokenizer and agrees on what tokenizers are known to differ in."""
    probe = texts_of([PROBE.encode()])
    try:
        found, _ = _encode_fast(_load_fast(tokenizer_json), probe)
    except Exception:  # it has no error class of its own; the exact one loaded the same
        return False
    return bool(np.array_equal(found, _encode_exact(exact, probe)[0]))


@lru_cache(maxsize=2)
def _load_exact(tokenizer_json: bytes) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one task a core already
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json.decode())
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@lru_cache(maxsize=2)
def _load_fast(tokenizer_json: bytes) -> Any:
    """gigatoken has no switch for special tokens in text, so it is not told of them."""
    import gigatoken

    content = json.loads(tokenizer_json)
    content["added_tokens"] = [token for token in content.get("added_tokens") or () if not token["special"]]
    return gigatoken.Tokenizer.from_json(json.dumps(content))


class Encoder:
    """A tokenizer loaded in a process. gigatoken keeps a cache of words, so a process should keep its encoder."""

    def __init__(self, tokenizer_json: bytes, backend: str) -> None:
        self.exact = _load_exact(tokenizer_json)
        self.fast = _load_fast(tokenizer_json) if backend == FAST else None

    def encode(self, texts: Sequence[bytes]) -> tuple[npt.NDArray[np.uint32], Int64s]:
        """UTF-8 texts -> (tokens of all, number of tokens of each), without special tokens."""
        return self.encode_texts(texts_of(texts))

    def encode_texts(self, texts: Texts) -> tuple[npt.NDArray[np.uint32], Int64s]:
        """The same of a batch, which gigatoken reads in place."""
        if not len(texts):
            return np.zeros(0, dtype=np.uint32), np.zeros(0, dtype=np.int64)
        pieces, firsts = cut(texts)
        tokens, lengths = (
            _encode_fast(self.fast, pieces) if self.fast is not None else _encode_exact(self.exact, pieces)
        )
        return tokens, np.add.reduceat(lengths, firsts)

    def agrees(self, text: bytes, tokens: Tokens) -> bool:
        """Whether the exact tokenizer gives these tokens too."""
        expected, _ = _encode_exact(self.exact, cut(texts_of([text]))[0])
        return bool(np.array_equal(tokens, expected))


def _encode_fast(fast: Any, pieces: Texts) -> tuple[npt.NDArray[np.uint32], Int64s]:
    layout = fast.encode_batch(_awkward(pieces), parallel=False).layout
    offsets = np.asarray(layout.offsets.data)
    return np.asarray(layout.content.data)[offsets[0] : offsets[-1]], np.diff(offsets).astype(np.int64)


def _encode_exact(exact: Any, pieces: Texts) -> tuple[npt.NDArray[np.uint32], Int64s]:
    """One piece at a time, for memory; `encode` would also find where each token lies, for half as much time again."""
    ids = [
        np.array(exact.encode_batch_fast([pieces[place].decode()], add_special_tokens=False)[0].ids, dtype=np.uint32)
        for place in range(len(pieces))
    ]
    return np.concatenate(ids), np.array([len(one) for one in ids], dtype=np.int64)


def _awkward(texts: Texts) -> Any:
    """The one kind of array that gigatoken takes, over the same bytes."""
    import awkward

    characters = awkward.contents.NumpyArray(texts.data, parameters={"__array__": "char"})
    offsets = awkward.index.Index64(texts.offsets)
    strings = awkward.contents.ListOffsetArray(offsets, characters, parameters={"__array__": "string"})
    return awkward.Array(strings)


@lru_cache(maxsize=2)
def load_encoder(path: Path, sha256: str, backend: str) -> Encoder:
    """The process's encoder for a tokenizer; `sha256` tells it from another one at the same path."""
    data = path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == sha256, f"{path} changed during the build"
    return Encoder(data, backend)


def cut(texts: Texts) -> tuple[Texts, Int64s]:
    """(pieces of at most `LONG_BYTES` over the same bytes, place of each text's first piece).

    A text is cut behind a line end, else before a space, else between two characters. A piece begins where a word
    does, so nearly every token is that of the uncut text.
    """
    num_pieces = np.ones(len(texts), dtype=np.int64)
    inner: list[int] = []
    for place in np.flatnonzero(texts.sizes > LONG_BYTES).tolist():
        cuts = _cuts(texts[place])
        num_pieces[place] += len(cuts)
        inner.extend(texts.offsets[place] + cuts)
    if not inner:
        return texts, np.arange(len(texts))
    offsets = np.sort(np.concatenate([texts.offsets, np.array(inner, dtype=np.int64)]))
    return Texts(texts.data, offsets), np.cumsum(num_pieces) - num_pieces


def _cuts(text: bytes) -> Int64s:
    """Where the pieces of a long text begin, but for the first."""
    cuts, start = [], 0
    while len(text) - start > LONG_BYTES:
        middle, end = start + LONG_BYTES // 2, start + LONG_BYTES
        start = text.rfind(b"\n", middle, end) + 1 or max(0, text.rfind(b" ", middle, end))
        if not start:
            start = end
            while text[start] & 0xC0 == 0x80:
                start -= 1
        cuts.append(start)
    return np.array(cuts, dtype=np.int64)
