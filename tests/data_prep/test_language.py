"""Unicode repair and language identification, and both within a source's settings."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.choosing import choose
from data_prep.clean import clean
from data_prep.config import SourceConfig
from data_prep.language import language_of, languages_of, sampled, without_markup
from data_prep.mojibake import SIGNS, repair
from data_prep.texts import texts_of
from tests.data_prep.corpora import config

TEXTS = {
    "en": "The river turns the wheel of the old mill, and the miller listens to the water all day long.",
    "de": "Der Fluss treibt das Rad der alten Mühle an, und der Müller hört den ganzen Tag dem Wasser zu.",
    "fr": "La rivière fait tourner la roue du vieux moulin, et le meunier écoute l'eau toute la journée.",
    "es": "El río hace girar la rueda del viejo molino, y el molinero escucha el agua todo el día.",
    "ru": "Река вращает колесо старой мельницы, и мельник весь день слушает воду.",
    "zh": "这条河推动着老磨坊的轮子，他们说，磨坊主每天都在听水的声音，因为这是他的工作。",
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the model comes with the package; nothing may be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(("language", "text"), TEXTS.items())
def test_languages_are_told_apart(language: str, text: str) -> None:
    found, confidence = language_of(text)
    assert found == language
    assert confidence > 0.65


def test_markup_does_not_hide_the_language() -> None:
    badges = "# mill\n[![x](https://img.net/a/b.svg?q=1)](https://ci.net/z)\n" * 6
    code = "```sh\nzxq --wq fgh_kjl | tr -d qqq\n```\n" * 6
    text = f"{badges}{code}<div class='zq'>\n{TEXTS['en']}\n</div>\n| --- | --- |\n"
    assert without_markup(text).split() == ["mill", "!", "x"] * 6 + TEXTS["en"].split()
    assert language_of(text)[0] == "en"
    assert language_of(text)[1] > 0.65


@pytest.mark.parametrize("text", ["", "1234 5678", "```\nx = 1\n```", "<a><b>"])
def test_no_words_are_no_language(text: str) -> None:
    assert language_of(text) == ("und", 0.0)


def test_long_texts_are_judged_by_their_beginning_middle_and_end() -> None:
    assert sampled("x" * 1_500) == "x" * 1_500
    text = "a" * 500 + "-" * 1_000 + "b" * 500 + "-" * 1_000 + "c" * 500
    assert sampled(text) == "\n".join(("a" * 500, "b" * 500, "c" * 500))


def test_more_is_looked_at_only_if_the_first_samples_leave_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def identified(text: str) -> tuple[str, float]:
        asked.append(len(text))
        return "en", 0.8 if "sure" in text or len(text) > 1_000 else 0.79

    monkeypatch.setattr("data_prep.language._identified", identified)
    assert language_of("surely" + "x" * 2_000) == ("en", 0.8)
    assert language_of("x" * 2_000) == ("en", 0.8)
    assert language_of("x" * 300) == ("en", 0.79)
    assert asked == [302, 302, 1_502, 300]


def test_a_source_keeps_its_languages(tmp_path: Path) -> None:
    def dropped(*texts: str, **settings: Any) -> list[bool]:
        """Which of the texts a source with these settings drops for their language."""
        source = SourceConfig(name="s", path="p", **settings)
        batch = texts_of([text.encode() for text in texts])
        columns: dict[str, Any] = {"empty": np.zeros(len(texts), dtype=bool), "size": batch.sizes}
        columns["language"], columns["confidence"] = map(np.array, languages_of(batch))
        choice = choose(source, config(tmp_path), columns)
        return [code >= 0 and choice.reasons[code] == "language" for code in choice.code.tolist()]

    assert dropped(TEXTS["en"], TEXTS["de"], languages=("en",)) == [False, True]
    both = dropped(*TEXTS.values(), languages=("en", "de"))
    assert {language for language, out in zip(TEXTS, both, strict=True) if not out} == {"en", "de"}
    confidence = language_of(TEXTS["en"])[1]
    for threshold, out in ((confidence * 0.9999, False), (min(1.0, confidence * 1.0001), True)):
        assert dropped(TEXTS["en"], languages=("en",), language_confidence=threshold) == [out]
    assert dropped(TEXTS["ru"]) == [False]


@pytest.mark.parametrize(
    "text", ["café – “naïve” Ærøskøbing, größer", TEXTS["de"], TEXTS["fr"], TEXTS["ru"], "über 5 €"]
)
@pytest.mark.parametrize("wrong", ["latin-1", "cp1252"])
def test_wrongly_decoded_text_is_repaired(text: str, wrong: str) -> None:
    try:
        broken = text.encode().decode(wrong)
    except UnicodeDecodeError:
        pytest.skip("not every byte has a character in this table")
    assert broken != text
    assert clean(f"A line that is fine: été.\n{broken}\n") == f"A line that is fine: été.\n{text}\n"


@pytest.mark.parametrize("text", [*TEXTS.values(), "Â and Ã alone", "À la carte, ÉTÉ, Übergröße, «oui»", "10 £ à 20 €"])
def test_text_that_is_right_is_left_alone_without_asking(text: str) -> None:
    assert not SIGNS.search(text)
    assert repair(text) is text


def test_text_that_looks_broken_but_is_not_is_left_alone() -> None:
    assert SIGNS.search("voilà» dit-il")
    assert repair("voilà» dit-il") == "voilà» dit-il"
