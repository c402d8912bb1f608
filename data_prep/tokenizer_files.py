"""Other tokenizers' files as a `tokenizer.json`: tiktoken's ranks and SentencePiece's models, id for id.

    rank file (base64 token, rank)  + pattern          -> byte-level BPE
    SentencePiece model (protobuf)  BPE or Unigram     -> the same over characters, with its normaliser

Neither tiktoken nor SentencePiece is needed. What a `tokenizer.json` cannot say is refused; what it says otherwise
stands at `PATTERNS` and `from_sentencepiece`.

A BPE in both kinds of file is a list of tokens in order of priority and tells no merges; there every two parts that are
tokens and together are one may merge. Of the ways to halve a token at most one is ever met, so naming all is exact.
"""

import base64
import binascii
import json
import re
import struct
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from data_prep.errors import DataMistake
from data_prep.tokenizer import byte_alphabet, hidden

Json = dict[str, Any]
Fields = dict[int, Any]
"""A protobuf message by the numbers of its fields; what is left out has its default."""
T = TypeVar("T", str, bytes)


def tokenizer_json(data: bytes, where: str, end_of_text: str, pattern: str | None = None) -> bytes:
    """A tokenizer's file, of whichever kind its first bytes say, as the bytes of a `tokenizer.json`.

    `pattern` is for rank files alone: a key of `PATTERNS` or a regular expression. Raises DataMistake, naming `where`.
    """
    if _is_ranks(data):
        made = from_ranks(data, where, end_of_text, pattern)
    elif pattern is not None:
        raise DataMistake(f"tokenizer.pattern: {where} is no tiktoken rank file and brings its own; leave it out")
    elif _is_sentencepiece(data):
        made = from_sentencepiece(data, where)
    else:
        return data
    return json.dumps(made, ensure_ascii=False).encode()


def num_tokens(data: bytes, where: str, end_of_text: str, pattern: str | None = None) -> int:
    """The size of a tokenizer's vocabulary, special tokens included, from its file of any kind: 0.3 s for 200,000,
    where `tokenizer_json` takes many. Raises DataMistake, naming `where`, if the file does not tell."""
    if _is_ranks(data):
        num_ranks = len(_read_ranks(data, where))
        return num_ranks + len(_specials(num_ranks, where, end_of_text, pattern))
    if _is_sentencepiece(data):
        return len(_whole_model(data, where)[0])
    try:
        tree = json.loads(data)
        vocab = tree["model"]["vocab"]
        ids = range(len(vocab)) if isinstance(vocab, list) else vocab.values()  # Unigram: (token, score) by id
        return int(max([*ids, *(token["id"] for token in tree.get("added_tokens") or ())])) + 1
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataMistake(
            f"{where} is no Hugging Face tokenizer.json, tiktoken rank file or SentencePiece model "
            f"({type(error).__name__}: {error}); give one that is"
        ) from error


def _is_ranks(data: bytes) -> bool:
    return re.match(rb"[A-Za-z0-9+/]+=* [0-9]+\r?\n", data) is not None


def _is_sentencepiece(data: bytes) -> bool:
    return data.startswith(b"\n") and not data.lstrip().startswith(b"{")


# --- tiktoken


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """How a published encoding splits text, and what follows its ranks."""

    expression: str
    num_ranks: int
    specials: tuple[str, ...]
    """The special tokens behind the last rank, in order, as far as the end of text."""


_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LOWER, _UPPER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}", r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERNS = {
    "gpt2": Pattern(
        expression=r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        num_ranks=50_256,
        specials=("<|endoftext|>",),
    ),
    "cl100k": Pattern(expression=_GPT4, num_ranks=100_256, specials=("<|reserved_100256|>", "<|endoftext|>")),
    "o200k": Pattern(
        expression=rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_SUFFIX}|"
        rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_SUFFIX}|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        num_ranks=199_998,
        specials=("<|startoftext|>", "<|endoftext|>"),
    ),
    "llama3": Pattern(expression=_GPT4, num_ranks=128_000, specials=("<|begin_of_text|>", "<|end_of_text|>")),
}
"""As published with the models. Where a text ends in a line end and then spaces, tiktoken 0.7 and later take the two
for one word under `cl100k`; here they are two, as other implementations have it."""

_NOT_OURS = re.compile(r"\}\+|(?<!\[)\^|\$")
"""Says something else to tiktoken than to `tokenizers`: a possessive count; the beginning and end of the text."""


def from_ranks(data: bytes, where: str, end_of_text: str, pattern: str | None) -> Json:
    """A tiktoken rank file. The end of text gets its published id, or the one behind the last rank."""
    ranks = _read_ranks(data, where)
    spelled = byte_alphabet()
    names = {token: "".join([spelled[byte] for byte in token]) for token in ranks}
    merges = [(names[left], names[right]) for left, right in _halves(list(ranks), ranks)]
    specials = _specials(len(ranks), where, end_of_text, pattern)
    return {
        "version": "1.0",
        # behind the model's vocabulary, which takes whole words from text
        "added_tokens": [_added(len(ranks) + place, name, special=True) for place, name in enumerate(specials)],
        "pre_tokenizer": _splitting(pattern),
        "decoder": _byte_level(use_regex=False),
        # tiktoken looks a whole word up before it merges anything
        "model": _bpe({names[token]: rank for token, rank in ranks.items()}, merges, ignore_merges=True),
    }


def _read_ranks(data: bytes, where: str) -> dict[bytes, int]:
    """Token -> rank, in order of rank: all 256 bytes are tokens and no rank is left out."""
    try:
        pairs = [
            (base64.b64decode(token, validate=True), int(rank)) for token, rank in map(bytes.split, data.splitlines())
        ]
    except (ValueError, binascii.Error) as error:
        raise DataMistake(
            f"{where}: a line is no base64 token and rank ({error}); give a whole .tiktoken file"
        ) from error
    ranks = dict(sorted(pairs, key=lambda pair: pair[1]))
    if list(ranks.values()) != list(range(len(pairs))):
        raise DataMistake(
            f"{where}: its ranks are not 0, 1, 2, ... each once, which no tokenizer.json can say; give another"
        )
    if not all(bytes([byte]) in ranks for byte in range(256)):
        raise DataMistake(
            f"{where}: not every byte is a token, so some text has no tokens; give a whole .tiktoken file"
        )
    return ranks


def _specials(num_ranks: int, where: str, end_of_text: str, pattern: str | None) -> tuple[str, ...]:
    if pattern is None:
        raise DataMistake(
            f"tokenizer.pattern: {where} does not say how it splits text;"
            f" give {', '.join(PATTERNS)} or a regular expression"
        )
    known = PATTERNS.get(pattern)
    if known is None or known.num_ranks != num_ranks:
        return (end_of_text,)
    if end_of_text != known.specials[-1]:
        raise DataMistake(
            f"tokenizer.end_of_text: {where} is {pattern}, where {end_of_text!r} ends no document;"
            f" give {known.specials[-1]!r}"
        )
    return known.specials


def _splitting(pattern: str | None) -> Json:
    assert pattern is not None
    if pattern == "gpt2":
        return _byte_level(use_regex=True)
    expression = PATTERNS[pattern].expression if pattern in PATTERNS else _checked(pattern)
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(use_regex=False)]}


def _checked(pattern: str) -> str:
    import tokenizers

    names = ", ".join(PATTERNS)
    if found := _NOT_OURS.search(pattern):
        raise DataMistake(
            f"tokenizer.pattern: {found.group()!r} means something else here than to tiktoken; write {{m,n}} or (?>...)"
            rf" for a possessive count and \A, \z for the text's ends, or give {names}"
        )
    try:
        tokenizers.Regex(pattern)
    except Exception as error:  # the library raises bare Exception
        raise DataMistake(
            f"tokenizer.pattern: {pattern!r} is neither one of {names} nor a regular expression ({error})"
        ) from error
    return pattern


# --- SentencePiece

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
SPACE = "▁"
"""Stands for a space in pieces."""
APART = "\x01"
"""A control character, which no cleaned text has, is a grapheme of its own."""


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    score: float
    kind: int


def from_sentencepiece(data: bytes, where: str) -> Json:
    """A SentencePiece model, BPE or Unigram (Kudo and Richardson 2018; field numbers from sentencepiece_model.proto).

    Two things stay inexact. Where ways to cut a Unigram's text score alike to four digits (spaces: 12 + 12 or 8 + 16),
    SentencePiece's rounding to single precision chooses: 2 tokens of 550,000, 116 of 648,000 where runs of spaces are
    pieces (the standard library's source). Where the character map changes a character, accents behind it may join it
    or change places (a ligature fi and an acute).
    """
    pieces, trainer, normalizer = _whole_model(data, where)
    kind = trainer.get(3, UNIGRAM)
    if problem := _problem(pieces, trainer, normalizer):
        raise DataMistake(f"{where}: {problem}, which a tokenizer.json cannot say exactly; give another tokenizer")
    return {
        "version": "1.0",
        "added_tokens": [
            _added(place, _name(piece, kind), special=piece.kind != USER_DEFINED)
            for place, piece in enumerate(pieces)
            if piece.kind in (UNKNOWN, CONTROL) or (piece.kind == USER_DEFINED and kind == BPE)
        ],
        "normalizer": {"type": "Sequence", "normalizers": list(_normalizers(normalizer))},
        "pre_tokenizer": _apart_from_bytes() if kind == UNIGRAM and trainer.get(35) else None,
        "decoder": _decoder(normalizer),
        "model": _merging(pieces, bool(trainer.get(35))) if kind == BPE else _unigram(pieces, bool(trainer.get(35))),
    }


def _whole_model(data: bytes, where: str) -> tuple[list[Piece], Fields, Fields]:
    """As `_read_model`. Raises DataMistake if the file is none."""
    try:
        return _read_model(data)
    except (ValueError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise DataMistake(f"{where} is cut off or no tokenizer ({error}); give a whole SentencePiece .model") from error


def _read_model(data: bytes) -> tuple[list[Piece], Fields, Fields]:
    """(pieces, TrainerSpec, NormalizerSpec)"""
    pieces: list[Piece] = []
    specs: dict[int, Fields] = {2: {}, 3: {}}
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            [score] = struct.unpack("<f", piece.get(2, bytes(4)))
            pieces.append(Piece(piece[1].decode(), score, piece.get(3, NORMAL)))
        elif number in specs:
            specs[number] = dict(_fields(value))
    if not pieces:
        raise ValueError("it has no pieces")
    return pieces, specs[2], specs[3]


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protobuf message's fields: numbers as int, all else as bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        match key & 7:
            case 0:
                value, place = _varint(message, place)
                yield key >> 3, value
                continue
            case 2:
                size, place = _varint(message, place)
            case 1 | 5 as wire_type:
                size = 8 if wire_type == 1 else 4
            case other:
                raise ValueError(f"a field of type {other}")
        if place + size > len(message):
            raise ValueError("it ends inside a field")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while message[place] & 0x80:
        value |= (message[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
    return value | message[place] << shift, place + 1


def _problem(pieces: Sequence[Piece], trainer: Fields, normalizer: Fields) -> str:
    """Why the model cannot be said; empty if it can."""
    kind, with_bytes = trainer.get(3, UNIGRAM), trainer.get(35)
    normal = {piece.text: piece.score for piece in pieces if piece.kind == NORMAL}
    own = [piece.text for piece in pieces if piece.kind == USER_DEFINED]
    if kind not in (UNIGRAM, BPE):
        return "it is a model of words or characters"
    if trainer.get(24) or not normalizer.get(5, 1):
        return "white space ends its words or is not escaped"
    if len({piece.text for piece in pieces}) < len(pieces):
        return "it has a piece twice"
    if not all(char in normal for text in normal for char in text):
        return "a character of its pieces is no piece itself"
    if with_bytes and sum(piece.kind == BYTE for piece in pieces) != 256:
        return "it falls back to bytes and lacks some"
    if any(_normalized(text, normalizer) != text for text in own):
        return "it has user-defined pieces that its own normalising changes"
    if kind == UNIGRAM:
        if with_bytes and any("<0" in text for text in [*normal, *own]):
            return "its pieces reach into the names of its bytes"
        return ""
    if any(piece.kind == UNUSED for piece in pieces):
        return "it is a BPE with unused pieces"
    if own and (normalizer.get(3, 1) or normalizer.get(2)):
        return "it is a BPE with user-defined pieces that puts a space before each text or changes characters"
    scores = [score for text, score in normal.items() if len(text) > 1]
    if len(set(scores)) < len(scores):
        return "it is a BPE with pieces of equal score"
    return ""


def _name(piece: Piece, kind: int) -> str:
    """A piece's name in the vocabulary: another one where the model would find in text what is not to be found there.

    BPE finds single characters and what merges lead to, Unigram all that it has.
    """
    unseen = piece.kind in (UNKNOWN, CONTROL, UNUSED) and (kind == UNIGRAM or len(piece.text) == 1)
    return hidden(piece.text) if unseen else piece.text


def _merging(pieces: Sequence[Piece], with_bytes: bool) -> Json:
    """The higher a piece's score, the earlier it is merged."""
    normal = {piece.text for piece in pieces if piece.kind == NORMAL}
    by_score = sorted((piece for piece in pieces if piece.kind == NORMAL), key=lambda piece: -piece.score)
    vocab = {_name(piece, BPE): place for place, piece in enumerate(pieces)}
    unknown = next((_name(piece, BPE) for piece in pieces if piece.kind == UNKNOWN), None)
    return _bpe(vocab, _halves([piece.text for piece in by_score], normal), unknown=unknown, byte_fallback=with_bytes)


def _unigram(pieces: Sequence[Piece], with_bytes: bool) -> Json:
    """SentencePiece cuts out user-defined pieces by a score that beats nearly all; its best one never goes below 0."""
    best = max([0.0, *(piece.score for piece in pieces if piece.kind == NORMAL)])

    def score(piece: Piece) -> float:
        if piece.kind == USER_DEFINED:
            return len(piece.text.encode()) * best - 0.1
        return piece.score if piece.kind == NORMAL else 0.0

    return {
        "type": "Unigram",
        "unk_id": next((place for place, piece in enumerate(pieces) if piece.kind == UNKNOWN), None),
        "vocab": [[_name(piece, UNIGRAM), score(piece)] for piece in pieces],
        "byte_fallback": with_bytes,
    }


def _normalizers(normalizer: Fields) -> Iterator[Json]:
    if normalizer.get(2):
        # `tokenizers` looks a whole grapheme up and loses the accent behind a character that the map changes
        yield _replace({"Regex": r"\Y"}, APART)
        yield {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(normalizer[2]).decode()}
        yield _replace({"String": APART}, "")
        if b"nfkc" in normalizer.get(1, b""):  # what the map makes of a character may join the accent behind it
            yield {"type": "NFC"}
    if extra := normalizer.get(4, 1):
        yield _replace({"Regex": r"\A +"}, "")
        yield _replace({"Regex": " {2,}"}, " ")
    if normalizer.get(3, 1):
        yield {"type": "Prepend", "prepend": SPACE}
    yield _replace({"String": " "}, SPACE)
    if extra:
        yield _replace({"Regex": rf"{SPACE}+\z"}, "")


def _normalized(text: str, normalizer: Fields) -> str:
    """By the character map alone."""
    from tokenizers import normalizers

    return str(normalizers.Precompiled(normalizer[2]).normalize_str(text)) if normalizer.get(2) else text


def _apart_from_bytes() -> Json:
    """Unigram would find a byte's name, `<0x0A>`, in text. No piece reaches over the cut, so nothing else changes."""
    names = {"Regex": "<(?=0x[0-9A-F]{2}>)"}
    return {"type": "Split", "pattern": names, "behavior": "MergedWithPrevious", "invert": False}


def _decoder(normalizer: Fields) -> Json:
    steps = [_replace({"String": SPACE}, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    if normalizer.get(3, 1):
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


# --- parts of a tokenizer.json


def _bpe(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    *,
    unknown: str | None = None,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> Json:
    return {
        "type": "BPE",
        "unk_token": unknown,
        "fuse_unk": True,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": vocab,
        "merges": merges,
    }


def _halves(tokens: Sequence[T], known: Container[T]) -> list[tuple[T, T]]:
    """The merges that lead to each token, in order of tokens."""
    return [
        (token[:cut], token[cut:])
        for token in tokens
        for cut in range(1, len(token))
        if token[:cut] in known and token[cut:] in known
    ]


def _added(place: int, content: str, *, special: bool) -> Json:
    return {
        "id": place,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": not special,
        "special": special,
    }


def _byte_level(*, use_regex: bool) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _replace(pattern: Json, content: str) -> Json:
    return {"type": "Replace", "pattern": pattern, "content": content}
