"""Words and n-grams against a plain Python reading of the same rules."""

from hypothesis import given
from hypothesis import strategies as st

from data_prep.shingles import ngram_hashes, word_hashes
from data_prep.texts import texts_of

MASK = 2**64 - 1
SEPARATING = [(0x80, 0xBF), (0x2000, 0x207F), (0x3000, 0x303F), (0xFF00, 0xFF0F), (0xFF1A, 0xFF20)]

anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
awkward = st.text(st.sampled_from("aBz09 _-.\n\x00\x01Éß’—\xa0×あ漢字々，Ａ０한กЖ😀⁰₀"), max_size=40)
documents = st.lists(anything | awkward, max_size=6)


def words_of(text: str) -> list[str]:
    marked = ""
    for character in text:
        code = ord(character)
        if code < 0x80:
            marked += character.lower() if character.isalnum() else " "
        elif any(low <= code <= high for low, high in SEPARATING):
            marked += " "
        else:
            marked += f" {character} " if 0x3040 <= code <= 0x9FFF else character
    return [word for word in marked.split(" ") if word]


def mixed(value: int) -> int:
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ value >> 33) * factor & MASK
    return value ^ value >> 33


def word_hash(word: str) -> int:
    value = 0xCBF29CE484222325
    for byte in word.encode():
        value = (value ^ byte) * 0x100000001B3 & MASK
    return mixed(value)


def ngram_hash(words: list[str]) -> int:
    value = 0
    for word in words:
        value = (value * 0x9E3779B97F4A7C15 + word_hash(word)) & MASK
    return mixed(value)


def test_case_and_punctuation_are_ignored() -> None:
    forms = ["The cat’s 2nd “hat”—red", "the CAT'S 2nd, (hat) - red!", "the\ncat s\t2nd hat\xa0red"]
    first, *others = [word_hashes(texts_of([form.encode()])).values.tolist() for form in forms]
    assert len(first) == 6
    assert others == [first, first]
    assert word_hashes(texts_of(["naïve Ünder 漢字".encode()])).counts.tolist() == [4]


@given(documents)
def test_words_are_those_of_the_rules(texts: list[str]) -> None:
    found = word_hashes(texts_of([text.encode() for text in texts]))
    assert [found[place].tolist() for place in range(len(texts))] == [
        [word_hash(word) for word in words_of(text)] for text in texts
    ]


@given(st.lists(st.text("ab ", max_size=16), max_size=6), st.integers(1, 6), st.data())
def test_ngrams_are_all_runs_of_words(texts: list[str], length: int, data: st.DataObject) -> None:
    shortest = data.draw(st.none() | st.integers(1, length))
    found = ngram_hashes(word_hashes(texts_of([text.encode() for text in texts])), length, shortest)
    for place, text in enumerate(texts):
        words = text.split()
        runs = [words[at : at + length] for at in range(len(words) - length + 1)]
        if not runs and shortest is not None and len(words) >= shortest:
            runs = [words]
        assert found[place].tolist() == [ngram_hash(run) for run in runs]
