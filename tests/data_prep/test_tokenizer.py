"""The tokenizer: `tokenizers` is the truth that training and the fast path are held to."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import tokenizer
from data_prep.errors import DataMistake
from data_prep.small import byte_tokenizer
from data_prep.texts import texts_of
from data_prep.tokenizer import EXACT, FAST, Encoder, cut, describe, train

END = "<|endoftext|>"
LIBRARY = Path(os.__file__).parent
TEXTS = [path.read_text() for path in sorted(LIBRARY.glob("a*.py"))] + ["Größe 漢字 日本語 naïve " * 30]


@pytest.fixture(scope="module")
def trained() -> bytes:
    return train(TEXTS, 800, END)


def test_training_gives_what_tokenizers_would_train(trained: bytes) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    expected = Tokenizer(models.BPE())
    expected.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    expected.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    expected.train_from_iterator(iter(TEXTS), trainer)
    assert json.loads(trained) == json.loads(expected.to_str())


def test_neither_order_nor_threads_change_the_bytes(trained: bytes, tmp_path: Path) -> None:
    assert train(TEXTS[::-1], 800, END) == trained
    code = (
        "import sys; from tests.data_prep.test_tokenizer import TEXTS, END; from data_prep.tokenizer import train;"
        " open(sys.argv[1], 'wb').write(train(TEXTS, 800, END))"
    )
    for threads in ("1", "3"):
        out = tmp_path / threads
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONPATH": os.getcwd()}
        subprocess.run([sys.executable, "-c", code, str(out)], check=True, env=environment)
        assert out.read_bytes() == trained


def test_training_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    train(TEXTS[:2], 300, END)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (256, r"vocab_size: 256 cannot hold the 256 bytes"),
        (5_000, r"yields only \d+ tokens, not 5000; give \d+ or less"),
    ],
)
def test_a_vocabulary_that_does_not_fit(size: int, message: str) -> None:
    with pytest.raises(DataMistake, match=message):
        train(["a small text that has few pairs"], size, END)


def test_facts(trained: bytes) -> None:
    facts = describe(trained, END, "here")
    assert (facts.vocab_size, facts.end_of_text_id, facts.token_dtype, facts.backend) == (800, 0, "uint16", FAST)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("normalizer", {"type": "Lowercase"}),  # gigatoken does not load it
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}),
    ],
)  # the second it loads, and then splits text all the same
def test_gigatoken_is_not_used_where_it_cannot_or_differs(trained: bytes, section: str, change: object) -> None:
    assert describe(json.dumps(json.loads(trained) | {section: change}).encode(), END, "here").backend == EXACT


def test_no_tokenizer_and_no_end_of_text_are_named(trained: bytes) -> None:
    with pytest.raises(DataMistake, match=r"here is no Hugging Face tokenizer\.json"):
        describe(b"{}", END, "here")
    with pytest.raises(DataMistake, match=r"here has no token '</s>'; set tokenizer\.end_of_text"):
        describe(trained, "</s>", "here")


def test_a_vocabulary_over_65536_takes_wide_tokens(trained: bytes) -> None:
    content = json.loads(trained)
    content["model"]["vocab"]["wide"] = 65_536
    assert describe(json.dumps(content).encode(), END, "here").token_dtype == "uint32"


def encoded(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    tokens, lengths = encoder.encode([text.encode() for text in texts])
    assert lengths.sum() == len(tokens)
    return [one.tolist() for one in np.split(tokens, np.cumsum(lengths)[:-1])]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_both_backends_agree(texts: list[str]) -> None:
    fast, exact = Encoder(byte_tokenizer(), FAST), Encoder(byte_tokenizer(), EXACT)
    assert encoded(fast, texts) == encoded(exact, texts)


@pytest.mark.parametrize("backend", [FAST, EXACT])
def test_text_never_makes_a_special_token(trained: bytes, backend: str) -> None:
    encoder = Encoder(trained, backend)
    [tokens] = encoded(encoder, [f"one {END} two{END}"])
    assert 0 not in tokens
    assert encoder.exact.decode(tokens) == f"one {END} two{END}"


def test_a_difference_is_seen(trained: bytes) -> None:
    encoder = Encoder(trained, FAST)
    tokens, _ = encoder.encode([b"some text"])
    assert encoder.agrees(b"some text", tokens)
    assert not encoder.agrees(b"some text", tokens[::-1])
    assert not encoder.agrees(b"some text", tokens[:-1])


@pytest.mark.parametrize("wrong", [0, 700, -1])
def test_a_difference_is_seen_in_any_piece_of_a_long_document(
    trained: bytes, wrong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "LONG_BYTES", 500)
    encoder, text = Encoder(trained, FAST), b"a long line of words\n" * 200
    tokens = encoder.encode([text])[0].copy()
    assert encoder.agrees(text, tokens)
    tokens[wrong] += 1
    assert not encoder.agrees(text, tokens)


@pytest.mark.parametrize("backend", [FAST, EXACT])
def test_a_batch_is_encoded_as_its_texts_are(trained: bytes, backend: str) -> None:
    encoder = Encoder(trained, backend)
    given_texts = [b"", b"some text", "Größe 漢字".encode(), b"", b"more", b""]
    tokens, lengths = encoder.encode_texts(texts_of(given_texts))
    alone = [encoder.encode([text])[0].tolist() for text in given_texts]
    assert [one.tolist() for one in np.split(tokens, np.cumsum(lengths)[:-1])] == alone
    assert [len(one) for one in encoder.encode([])] == [0, 0]


WORDS = st.lists(st.sampled_from(["wörd ", "line\n", "漢", "x" * 30]), max_size=60).map("".join)


def test_a_cut_is_behind_a_line_or_before_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "LONG_BYTES", 10)
    pieces, firsts = cut(texts_of([b"one two three", b"", b"line\nline two", b"0123456789abc"]))
    assert [pieces[place] for place in range(len(pieces))] == [
        b"one two", b" three", b"", b"line\nline", b" two", b"0123456789", b"abc"
    ]  # fmt: skip
    assert firsts.tolist() == [0, 2, 3, 5]


@given(st.lists(WORDS, min_size=1, max_size=4))
def test_long_documents_are_cut_between_words(given_texts: list[str]) -> None:
    texts = texts_of([text.encode() for text in given_texts])
    limit, tokenizer.LONG_BYTES = tokenizer.LONG_BYTES, 50
    try:
        pieces, firsts = cut(texts)
    finally:
        tokenizer.LONG_BYTES = limit
    assert pieces.data is texts.data
    assert (pieces.sizes <= 50).all()
    ends = [*firsts[1:], len(pieces)]
    for text, first, end in zip(given_texts, firsts, ends, strict=True):
        parts = [pieces[place].decode() for place in range(first, end)]
        assert "".join(parts) == text
        assert all(parts[:-1])


@pytest.mark.parametrize("backend", [FAST, EXACT])
def test_a_long_document_has_the_tokens_of_the_uncut_one(
    trained: bytes, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(trained, backend)
    texts = ["", "a line of words\n" * 900, "short", "no line but words " * 900]
    whole = encoded(encoder, texts)
    monkeypatch.setattr(tokenizer, "LONG_BYTES", 2_000)
    assert encoded(encoder, texts) == whole
