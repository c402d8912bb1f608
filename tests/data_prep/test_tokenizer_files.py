"""Other tokenizers' files: the ids are those of tiktoken and SentencePiece themselves, or the file is refused."""

import base64
import io
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import sentencepiece
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from data_prep.clean import clean
from data_prep.errors import DataMistake
from data_prep.small import byte_tokenizer
from data_prep.tokenizer import EXACT, FAST, Encoder, TokenizerFacts, byte_alphabet, describe, train
from data_prep.tokenizer_files import PATTERNS, num_tokens, tokenizer_json

END = "<|endoftext|>"
LIBRARY = Path(os.__file__).parent
SOURCE = "\n".join((LIBRARY / f"{name}.py").read_text() for name in ("abc", "argparse", "cmd", "html/parser"))
LINES = [line for line in SOURCE.split("\n") if line.strip()] + ["Größe 漢字 日本語 naïve ½ 12345 <table> </s>"] * 20
FRAGMENTS = [
    *("</s>", "<s>", "<unk>", "<0x0A>", "<table>", "def", "▁", "▁▁▁▁", "  ", " ", "\n", "\n\n", "\r\n", "\t", "    x"),
    *(
        "'s",
        "'LL",
        "'ſ",
        "/\n",
        "1234567",
        "１２３",
        "½",
        "ﬁ",
        "Ⅷ",
        "é",
        "e\u0301",
        "😀",
        "👨‍👩‍👧",
        "漢字",
        "ไทย",
        "हिन्दी",
    ),
    *("\u00a0", "\u3000", "\u2028", "\u0085", "İ", "ǅ", "ʰ", "unreachable", END),
]
# tokenizers and tiktoken know Unicode 16, gigatoken 17, Python less: what it has not heard of is left out
CHARACTERS = st.characters(exclude_categories=["Cs", "Cn"])
TEXTS = st.lists(
    st.one_of(st.sampled_from(FRAGMENTS), st.sampled_from(LINES), st.text(CHARACTERS, max_size=8)), max_size=8
).map("".join)


def ids_of(encoder: Encoder, text: str) -> list[int]:
    return [int(token) for token in encoder.encode([text.encode()])[0]]


def loaded(made: bytes, end_of_text: str) -> tuple[TokenizerFacts, list[Encoder]]:
    """The facts, and an encoder of each backend that a build could use."""
    facts = describe(made, end_of_text, "here")
    return facts, [Encoder(made, backend) for backend in sorted({facts.backend, EXACT})]


# --- tiktoken


def rank_file(ranks: dict[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """Those of a trained BPE, and tokens that no merge leads to."""
    spelled = {character: byte for byte, character in enumerate(byte_alphabet())}
    vocab = json.loads(train(LINES, 2_000, END))["model"]["vocab"]
    tokens = [bytes(spelled[character] for character in token) for token in vocab if token != END]
    return {token: rank for rank, token in enumerate(dict.fromkeys([*tokens, b"unreachable", b"\n  ", b"12", b"123"]))}


def published(name: str) -> str:
    """The expression of an encoding as tiktoken itself has it; llama3's is in Meta's code only."""
    if name == "llama3":
        return PATTERNS[name].expression
    return str(getattr(openai_public, {"gpt2": "r50k_base"}.get(name, f"{name}_base"))()["pat_str"])


@pytest.mark.parametrize("name", PATTERNS)
def test_ids_are_those_of_tiktoken(ranks: dict[bytes, int], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: ranks)
    expected = tiktoken.Encoding(name, pat_str=published(name), mergeable_ranks=ranks, special_tokens={})
    facts, encoders = loaded(tokenizer_json(rank_file(ranks), "here", END, name), END)
    assert (facts.backend, facts.end_of_text_id, facts.vocab_size) == (FAST, len(ranks), len(ranks) + 1)

    @settings(deadline=None)
    @given(TEXTS)
    def check(text: str) -> None:
        text += "." * (name == "cl100k" and text[-1:].isspace())  # see PATTERNS
        assert [ids_of(encoder, text) for encoder in encoders] == [expected.encode_ordinary(text)] * 2

    check()


def test_an_expression_of_ones_own(ranks: dict[bytes, int]) -> None:
    """gigatoken knows published ones alone, so `tokenizers` encodes."""
    own = r"\p{N}|[^\p{N}\s]+|\s+"
    expected = tiktoken.Encoding("own", pat_str=own, mergeable_ranks=ranks, special_tokens={})
    facts, [encoder] = loaded(tokenizer_json(rank_file(ranks), "here", END, own), END)
    assert facts.backend == EXACT

    @settings(deadline=None)
    @given(TEXTS)
    def check(text: str) -> None:
        assert ids_of(encoder, text) == expected.encode_ordinary(text)

    check()


def test_a_word_that_spells_the_end_of_text_is_a_word(ranks: dict[bytes, int]) -> None:
    _, [encoder] = loaded(tokenizer_json(rank_file(ranks), "here", "END", r"\w+|\W"), "END")
    assert len(ranks) not in ids_of(encoder, "END")
    assert encoder.exact.decode(ids_of(encoder, "END")) == "END"


@pytest.mark.parametrize(
    ("name", "end_of_text", "end_id"),
    [
        ("gpt2", END, 50_256),
        ("cl100k", END, 100_257),
        ("o200k", END, 199_999),
        ("llama3", "<|end_of_text|>", 128_001),
    ],
)
def test_the_end_of_text_of_a_published_encoding_has_its_id(
    ranks: dict[bytes, int], name: str, end_of_text: str, end_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown on fewer ranks, as the real ones take seconds."""
    published, data = PATTERNS[name], rank_file(ranks)
    monkeypatch.setitem(PATTERNS, name, replace(published, num_ranks=len(ranks)))
    facts, _ = loaded(tokenizer_json(data, "here", end_of_text, name), end_of_text)
    assert facts.end_of_text_id - len(ranks) + published.num_ranks == end_id
    assert facts.vocab_size == facts.end_of_text_id + 1 == num_tokens(data, "here", end_of_text, name)
    with pytest.raises(
        DataMistake, match=f"is {name}, where '<eos>' ends no document; give {re.escape(repr(end_of_text))}"
    ):
        tokenizer_json(data, "here", "<eos>", name)


BYTES = {bytes([byte]): byte for byte in range(256)}


@pytest.mark.parametrize(
    ("data", "pattern", "message"),
    [
        (rank_file(BYTES), None, "tokenizer.pattern: here does not say how it splits text; give gpt2, cl100k, o200k, llama3"),
        (rank_file(BYTES), r"\s+$", r"tokenizer.pattern: '$' means something else"),
        (rank_file(BYTES), r"\p{N}{1,3}+", r"tokenizer.pattern: '}+' means something else"),
        (rank_file(BYTES), "gpt4(", "tokenizer.pattern: 'gpt4(' is neither one of gpt2, cl100k"),
        (rank_file({**BYTES, b"ab": 300}), "gpt2", "its ranks are not 0, 1, 2"),
        (rank_file(BYTES)[: -len("/w== 255\n")], "gpt2", "not every byte is a token"),
        (rank_file(BYTES) + b"YQ 256\n", "gpt2", "a line is no base64 token and rank"),
        (rank_file(BYTES) + b"YWI=\n", "gpt2", "a line is no base64 token and rank"),
        (byte_tokenizer(), "gpt2", "tokenizer.pattern: here is no tiktoken rank file"),
    ],
)  # fmt: skip
def test_rank_files_that_cannot_be(data: bytes, pattern: str | None, message: str) -> None:
    with pytest.raises(DataMistake, match=f"^{re.escape(message)}|here: {re.escape(message)}") as caught:
        tokenizer_json(data, "here", END, pattern)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_json_is_left_as_it_is() -> None:
    assert tokenizer_json(byte_tokenizer(), "here", END) == byte_tokenizer()
    assert tokenizer_json(b"\n" + byte_tokenizer(), "here", END) == b"\n" + byte_tokenizer()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"model": {"vocab": {}}}', b"\x80\x00", b"\n"])
def test_what_is_no_tokenizer_has_no_size(data: bytes) -> None:
    with pytest.raises(
        DataMistake, match=r"^here is (no Hugging Face tokenizer.json|cut off or no tokenizer)"
    ) as caught:
        num_tokens(data, "here", END)
    assert "\n" not in str(caught.value)


# --- SentencePiece

PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
RUNS = {"allow_whitespace_only_pieces": True, "split_digits": True}
OWN = {"user_defined_symbols": ["<table>", "▁▁▁▁", "\n\n", "def"], "control_symbols": ["<pad>", "§"]}
MODELS = {
    "llama": {"model_type": "bpe", **PLAIN, **RUNS},
    "gemma": {"model_type": "bpe", **PLAIN, **RUNS, **OWN, "add_dummy_prefix": False},
    "bpe": {"model_type": "bpe"},
    "unigram": {"model_type": "unigram"},
    "unigram with bytes": {"model_type": "unigram", **PLAIN},
    "unigram with pieces of its own": {"model_type": "unigram", **OWN, "user_defined_symbols": ["<table>", "def"]},
}


@lru_cache
def trained(name: str) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, vocab_size=500, num_threads=1, minloglevel=2, **MODELS[name]
    )
    return model.getvalue()


def same(name: str, model: sentencepiece.SentencePieceProcessor, found: list[int], expected: list[int]) -> bool:
    """Equal ids; those of a Unigram may be others that score the same, as happens in runs of one character."""
    scores = [sum(map(model.get_score, ids)) for ids in (found, expected)]
    return found == expected or ("unigram" in name and scores[0] == pytest.approx(scores[1], abs=1e-3))


@pytest.mark.parametrize("name", MODELS)
def test_ids_are_those_of_sentencepiece(name: str) -> None:
    model = sentencepiece.SentencePieceProcessor(model_proto=trained(name))
    facts, encoders = loaded(tokenizer_json(trained(name), "here", "</s>"), "</s>")
    assert facts.backend == (FAST if name in {"llama", "gemma"} else EXACT)
    assert (facts.end_of_text_id, facts.vocab_size) == (model.eos_id(), model.vocab_size())
    for data in (trained(name), tokenizer_json(trained(name), "here", "</s>")):
        assert num_tokens(data, "here", "</s>") == facts.vocab_size

    @settings(deadline=None)
    @given(TEXTS)
    def check(text: str) -> None:
        text = clean(text)
        for encoder in encoders:
            assert same(name, model, ids_of(encoder, text), model.encode(text))

    check()


@pytest.mark.parametrize("name", MODELS)
def test_names_of_control_pieces_and_bytes_are_text(name: str) -> None:
    model = sentencepiece.SentencePieceProcessor(model_proto=trained(name))
    _, encoders = loaded(tokenizer_json(trained(name), "here", "</s>"), "</s>")
    for text in ("</s>", "<s>a</s>", "<unk>", "<0x0A>", "a <0x41> b", "<pad>", "§"):
        assert [ids_of(encoder, text) for encoder in encoders] == [model.encode(text)] * len(encoders)
        assert model.eos_id() not in ids_of(encoders[0], text)


@pytest.mark.parametrize("name", ["gemma", "unigram with pieces of its own"])
def test_pieces_of_ones_own_are_cut_out_of_words(name: str) -> None:
    model = sentencepiece.SentencePieceProcessor(model_proto=trained(name))
    _, encoders = loaded(tokenizer_json(trained(name), "here", "</s>"), "</s>")
    for line in LINES[::5]:
        text = line[: len(line) // 2] + "def" + line[len(line) // 2 :]
        assert all(same(name, model, ids_of(encoder, text), model.encode(text)) for encoder in encoders)


def test_an_accent_behind_a_changed_character_is_kept() -> None:
    model = sentencepiece.SentencePieceProcessor(model_proto=trained("unigram"))
    _, [encoder] = loaded(tokenizer_json(trained("unigram"), "here", "</s>"), "</s>")
    for text in ("½\ufe0e", "™\u0489", "Ⅷ\u0489x", "Ｎ\u0327", "ｶﾞ", "한국어", "e\u0301"):
        assert encoder.exact.normalizer.normalize_str(text) == model.normalize(text)


def test_decoding_gives_the_text_back() -> None:
    text = "def f(x):\n    return 'Größe 漢'"
    for name in ("llama", "gemma", "unigram with bytes"):
        encoder = Encoder(tokenizer_json(trained(name), "here", "</s>"), EXACT)
        assert encoder.exact.decode(ids_of(encoder, text)) == text


def field(number: int, value: int | bytes | float) -> bytes:
    """A protobuf field; lengths and numbers below 2**14."""
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    amount = value if isinstance(value, int) else len(value)
    varint = bytes([amount & 0x7F | 0x80, amount >> 7])
    key = number << 3 | (0 if isinstance(value, int) else 2)
    return bytes([key & 0x7F | 0x80, key >> 7]) + varint + (b"" if isinstance(value, int) else value)


def model_of(pieces: Sequence[tuple[str, float, int]], trainer: bytes = field(3, 2), normalizer: bytes = b"") -> bytes:
    made = [field(1, text.encode()) + field(2, score) + field(3, kind) for text, score, kind in pieces]
    whole = b"".join(b"\n" + bytes([len(one)]) + one for one in made)
    return whole + field(2, trainer) + field(3, normalizer)


BASIC = [("<unk>", 0.0, 2), ("</s>", 0.0, 3), ("ab", -1.0, 1), ("a", -2.0, 1), ("b", -3.0, 1)]
NO_PREFIX = field(3, 0)


def test_a_model_made_by_hand() -> None:
    facts, [encoder] = loaded(tokenizer_json(model_of(BASIC, normalizer=NO_PREFIX), "here", "</s>"), "</s>")
    assert (facts.end_of_text_id, ids_of(encoder, "abba</s>")) == (1, [2, 4, 3, 0])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (model_of(BASIC)[:25], "here is cut off or no tokenizer"),
        (model_of(BASIC, normalizer=NO_PREFIX)[:-4], "here is cut off or no tokenizer"),
        (b"\n", "here is cut off or no tokenizer"),
        (field(2, field(3, 2))[:1] + b"\x00", "no Hugging Face tokenizer.json, tiktoken rank file or SentencePiece model"),
        (model_of(BASIC, field(3, 3)), "a model of words or characters"),
        (model_of(BASIC, field(3, 2) + field(24, 1)), "white space ends its words"),
        (model_of(BASIC, normalizer=field(5, 0)), "is not escaped"),
        (model_of([*BASIC, ("a", -9.0, 1)]), "a piece twice"),
        (model_of([*BASIC, ("ac", -9.0, 1)]), "a character of its pieces is no piece itself"),
        (model_of(BASIC, field(3, 2) + field(35, 1)), "falls back to bytes and lacks some"),
        (model_of([*BASIC, ("x", 0.0, 4)]), "user-defined pieces that puts a space before each text"),
        (model_of([*BASIC, ("aa", -9.0, 5)]), "unused pieces"),
        (model_of([*BASIC, ("ba", -1.0, 1)]), "pieces of equal score"),
    ],
)  # fmt: skip
def test_models_that_cannot_be(model: bytes, message: str) -> None:
    with pytest.raises(DataMistake, match=message) as caught:
        describe(tokenizer_json(model, "here", "</s>"), "</s>", "here")
    assert "\n" not in str(caught.value)


def test_neither_library_is_needed() -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(['tiktoken', 'sentencepiece', 'google.protobuf']);"
        " from data_prep.tokenizer_files import tokenizer_json; from data_prep.tokenizer import Encoder, describe;"
        " data = sys.stdin.buffer.read(); made = tokenizer_json(data, 'here', '</s>');"
        " assert len(Encoder(made, describe(made, '</s>', 'here').backend).encode([b'some text'])[0])"
    )
    subprocess.run(
        [sys.executable, "-c", code], input=trained("llama"), check=True, env=os.environ | {"PYTHONPATH": "."}
    )
