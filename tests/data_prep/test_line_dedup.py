"""Line dedup against plain Python: which lines count, which one stays, and what is left of a text."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.lines import line_hashes, repeated_lines, without_lines
from data_prep.texts import Int64s, texts_of

documents = st.lists(st.text("aé \t\n", max_size=20), max_size=6)


def stripped(text: str) -> list[str]:
    return [line.strip(" \t") for line in text.split("\n")]


def left_of(texts: list[str], min_characters: int) -> list[str]:
    """The whole way, over all texts in one bucket."""
    encoded = texts_of([text.encode() for text in texts])
    found = line_hashes(encoded, min_characters)
    taken_out = repeated_lines(found.hashes, found.documents, found.lines)
    left = without_lines(encoded, found.documents[taken_out], found.lines[taken_out])
    return [left[place].decode() for place in range(len(left))]


@given(documents, st.integers(0, 5))
def test_lines_of_enough_characters(texts: list[str], min_characters: int) -> None:
    found = line_hashes(texts_of([text.encode() for text in texts]), min_characters)
    expected = [
        (document, number, line)
        for document, text in enumerate(texts)
        for number, line in enumerate(stripped(text))
        if line and len(line) >= min_characters
    ]
    assert list(zip(found.documents.tolist(), found.lines.tolist(), strict=True)) == [entry[:2] for entry in expected]
    alike = {(value, line) for value, (_, _, line) in zip(found.hashes.tolist(), expected, strict=True)}
    assert len(alike) == len({value for value, _ in alike}) == len({line for _, line in alike})


def test_the_first_line_in_the_first_document_stays() -> None:
    texts = ["menu here\none\nmenu here", "two\n  menu here \nmenu here\n", "menu here"]
    assert left_of(texts, 5) == ["menu here\none", "two\n", ""]
    assert left_of(texts, 10) == texts


@given(documents, st.integers(1, 4))
def test_every_line_stays_once(texts: list[str], min_characters: int) -> None:
    seen: set[str] = set()
    expected = dict.fromkeys(range(len(texts)), "")
    for document in expected:
        kept = []
        for line, bare in zip(texts[document].split("\n"), stripped(texts[document]), strict=True):
            if len(bare) < min_characters or bare not in seen:
                kept.append(line)
            seen.add(bare)
        expected[document] = "\n".join(kept)
    assert left_of(texts, min_characters) == [expected[place] for place in range(len(texts))]


@given(documents, st.data())
def test_the_rest_of_a_text_is_joined(texts: list[str], data: st.DataObject) -> None:
    every = [(document, line) for document, text in enumerate(texts) for line in range(text.count("\n") + 1)]
    out = sorted(data.draw(st.sets(st.sampled_from(every)))) if every else []
    left = without_lines(
        texts_of([text.encode() for text in texts]),
        np.array([document for document, _ in out], dtype=np.int64),
        np.array([line for _, line in out], dtype=np.int32),
    )
    for document, text in enumerate(texts):
        kept = [line for number, line in enumerate(text.split("\n")) if (document, number) not in out]
        assert left[document].decode() == "\n".join(kept)


def test_the_order_of_a_bucket_does_not_matter() -> None:
    random = np.random.default_rng(0)
    entries = np.array([(hashed, place, line) for hashed in range(5) for place in range(9) for line in range(3)])
    entries = entries[random.permutation(len(entries))[:90]]

    def stays(order: Int64s) -> set[tuple[int, ...]]:
        hashes, places, lines = entries[order].T
        out = repeated_lines(hashes.astype(np.uint64), places, lines.astype(np.int32))
        return {tuple(entry) for entry in entries[order][~out].tolist()}

    expected = {tuple(min(e for e in entries.tolist() if e[0] == hashed)) for hashed in range(5)}
    assert stays(np.arange(90)) == expected
    for _ in range(5):
        assert stays(random.permutation(90)) == expected
