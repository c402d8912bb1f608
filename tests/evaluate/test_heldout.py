"""Held-out documents, as the gate compares them: one by one."""

from collections import Counter
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.small import write_small_corpus
from pipeline.evaluate.heldout import encode_heldout, unique_ids

NAMES = st.sampled_from(["a", "a#2", "a#3", "b"])


@given(st.lists(st.tuples(st.sampled_from("st"), NAMES), max_size=12))
@example([("s", "a#2"), ("s", "a"), ("s", "a")])
def test_ids_that_repeat_are_made_unique_in_their_source_and_the_first_keeps_its_own(
    documents: list[tuple[str, str]],
) -> None:
    ids = unique_ids(documents)
    of_sources = [(source, name) for (source, _), name in zip(documents, ids, strict=True)]
    assert max(Counter(of_sources).values(), default=1) == 1
    assert all(name.startswith(given) for (_, given), name in zip(documents, ids, strict=True))
    if len(set(documents)) == len(documents):
        assert ids == [name for _, name in documents]


def test_the_second_of_a_name_is_numbered() -> None:
    assert unique_ids([("s", "a"), ("t", "a"), ("s", "a"), ("s", "a")]) == ["a", "a", "a#2", "a#3"]


def test_documents_that_are_scored_have_ids_of_their_own(tmp_path: Path) -> None:
    held = {"code": [("a", "x = 1"), ("a", "y = 2"), ("b", "z = 3")], "prose": [("a", "a mill")]}
    trained = {source: [(f"{source}{at}", "the wheel turns") for at in range(9)] for source in held}
    write_small_corpus(tmp_path, trained, sequence_length=16, heldout=held)
    documents = encode_heldout(tmp_path)
    assert [(one.source, one.id) for one in documents] == [
        ("code", "a"), ("code", "a#2"), ("code", "b"), ("prose", "a"),
    ]  # fmt: skip
    assert [one.num_bytes for one in documents] == [5, 5, 5, 6]
