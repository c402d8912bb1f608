"""Cleaning, redaction and language of a batch are what they are of each text alone."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.clean import BLOCK_BYTES, NUM_CODES, clean, clean_all
from data_prep.config import PII_KINDS
from data_prep.language import language_of, languages_of
from data_prep.pii import FINDERS, redact
from data_prep.redaction import SIGNS_OF, redact_all
from data_prep.texts import texts_of
from tests.data_prep.test_pii import HARMLESS, PLANTED

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
BROKEN = (
    "a|é|e\u0301|\u0301|Ã©|â€™|вЂ™|‚Äî|\r\n|\r|\x07|\x7f|\x85|\ufeff|»|’|가|\u1100|\u1161|\u11a8|\u09c7|\u09be|\u2126|"
    "\U0001d15e|\U000e0101|\n| "
)
broken = st.lists(st.sampled_from(BROKEN.split("|")), max_size=5).map("".join)


@settings(deadline=None)
@given(st.lists(st.one_of(any_text, broken), max_size=6))
def test_cleaning_a_batch(batch: list[str]) -> None:
    cleaned = clean_all(texts_of([text.encode() for text in batch]))
    assert [cleaned[place].decode() for place in range(len(batch))] == list(map(clean, batch))


@pytest.mark.parametrize("odd", ["", *BROKEN.split("|")])
def test_cleaning_finds_what_is_odd_wherever_it_is_in_a_long_plain_text(odd: str) -> None:
    """Plain text is passed over by the block."""
    batch = ["A plain line.\t\n"[at % 15 :] + "~plain text.\n" * 20 for at in range(15)]
    batch = [text[:at] + odd + text[at:] for at, text in enumerate(batch * (3 * BLOCK_BYTES // 15))]
    cleaned = clean_all(texts_of([text.encode() for text in batch]))
    assert [cleaned[place].decode() for place in range(len(batch))] == list(map(clean, batch))


def test_every_character_and_what_it_may_compose_with() -> None:
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    assert not any(unicodedata.combining(c) or unicodedata.decomposition(c) for c in every[NUM_CODES - 0x800 :])
    batch = [*every[:NUM_CODES], *(first + second for first in "aÅ가\u1100\u09c7" for second in every[:0x2000])]
    cleaned = clean_all(texts_of([text.encode() for text in batch]))
    assert all(cleaned[place] == clean(text).encode() for place, text in enumerate(batch))


planted = [value for values in PLANTED.values() for value in values]
shreds = [
    "@",
    "a@b",
    "2abc:",
    ":",
    "::",
    "1.2.3",
    ".",
    "12",
    "345",
    " ",
    "é",
    "٣",
    "x" * 20,
    "sk-",
    "_live_",
    "eyJ",
    "SG.",
    "PRIVATE",
    "AB",
    "(",
]
held = st.lists(st.sampled_from([*planted, *HARMLESS, *shreds]), max_size=5).map("".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(held, max_size=4), st.one_of(st.just(PII_KINDS), st.sampled_from(PII_KINDS).map(lambda kind: (kind,))))
def test_redacting_a_batch(batch: list[str], kinds: tuple[str, ...]) -> None:
    redacted, counts = redact_all(texts_of([text.encode() for text in batch]), kinds, ("US", "DE"))
    assert counts.keys() == set(kinds)
    for place, text in enumerate(batch):
        alone = redact(text, kinds, ("US", "DE"))
        assert redacted[place].decode() == alone.text
        assert {kind: int(count[place]) for kind, count in counts.items() if count[place]} == alone.counts


def test_what_a_replacement_brings_about_is_found_too() -> None:
    text = "1234 jane.doe@mill-river.net 567 +٤٤ ٢٠ ٧٩٤٦ ٠٩٥٨"  # too few digits close together before
    assert redact_all(texts_of([text.encode()]), PII_KINDS)[0][0].decode() == "1234 <EMAIL> 567 <PHONE>"


def test_everything_planted_is_found_in_a_batch() -> None:
    assert SIGNS_OF.keys() == FINDERS.keys()
    for kind, values in PLANTED.items():
        batch = [around.format(value) for value in values for around in ("{}", "über {}.", "x {}, y")]
        assert redact_all(texts_of([text.encode() for text in batch]), PII_KINDS)[1][kind].tolist() == [1] * len(batch)


def test_languages_of_a_batch() -> None:
    batch = ["The river turns the wheel of the mill.", "", "Der Fluss treibt das Rad der Mühle an.", "1234"]
    languages, confidences = languages_of(texts_of([text.encode() for text in batch]))
    assert list(zip(languages, confidences.tolist(), strict=True)) == list(map(language_of, batch))
    assert languages == ["en", "und", "de", "und"]
