"""Contamination: what a task holds is found wherever and however it is written, and nothing else."""

import gzip
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.decontaminate import build_index, load_index, overlaps, read_tasks, save_index
from data_prep.errors import DataMistake
from data_prep.shingles import word_hashes
from data_prep.texts import texts_of

ITEM = "What is the boiling point of water, in °C, at the top of Mount Everest?"
"""15 words, so three 13-grams."""


def counts(texts: list[str], tasks: dict[str, list[str]], ngram: int = 13) -> list[list[int]]:
    found: list[list[int]] = overlaps(
        word_hashes(texts_of([text.encode() for text in texts])), build_index(tasks, ngram)
    ).tolist()
    return found


def filler(count: int) -> str:
    return " ".join(f"x{number}" for number in range(count))


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("behind", [0, 1, 40])
def test_an_item_is_found_at_each_place(before: int, behind: int) -> None:
    assert counts([f"{filler(before)} {ITEM} {filler(behind)}"], {"quiz": [ITEM]}) == [[3]]


def test_case_punctuation_and_lines_hide_nothing() -> None:
    other = "“what is — THE boiling\npoint of\n\nwater (in C), at the top of *Mount* Everest"
    assert counts([other, ITEM.upper()], {"quiz": [ITEM]}) == [[3], [3]]


def test_twelve_words_are_not_enough() -> None:
    words = ITEM.split()
    assert counts(
        [" ".join(words[:12]), " ".join(words[:13]), " ".join([*words[:6], "not", *words[6:]])], {"q": [ITEM]}
    ) == [
        [0],
        [1],
        [0],
    ]


def test_short_items_count_whole() -> None:
    nine, seven = "name the largest moon of the planet called Saturn", "who wrote the novel Moby Dick then"
    index = build_index({"short": [nine, seven, ""], "long": [ITEM]})
    assert [(task.name, task.items, task.too_short) for task in index.record.tasks] == [("short", 3, 2), ("long", 1, 0)]
    assert index.record.tables == ((9, 1), (13, 3))
    texts = [f"{filler(2)} {nine}? {filler(30)}", f"{seven} {filler(30)}", nine.removesuffix(" Saturn")]
    assert counts(texts, {"short": [nine, seven], "long": [ITEM]}) == [[1, 0], [0, 0], [0, 0]]


def test_each_task_has_its_count() -> None:
    tasks = {"one": [ITEM, filler(13)], "none": [], "both": [ITEM, ITEM, "a " * 20]}
    assert counts([ITEM, f"{filler(13)} {ITEM}", "nothing", ""], tasks) == [[3, 0, 3], [4, 0, 3], [0, 0, 0], [0, 0, 0]]
    assert counts([ITEM], {}) == [[]]


few_words = st.lists(st.sampled_from("abc"), max_size=9).map(" ".join)


@given(
    st.lists(few_words, max_size=6),
    st.dictionaries(st.sampled_from("tuv"), st.lists(few_words, max_size=4)),
    st.integers(1, 9),
)
def test_counts_are_those_of_sets(texts: list[str], tasks: dict[str, list[str]], ngram: int) -> None:
    held: dict[str, set[tuple[str, ...]]] = {name: set() for name in tasks}
    for name, items in tasks.items():
        for words in map(str.split, items):
            held[name] |= {tuple(words[at : at + ngram]) for at in range(len(words) - ngram + 1)}
            if min(8, ngram) <= len(words) < ngram:
                held[name].add(tuple(words))
    expected = []
    for words in map(str.split, texts):
        runs = [tuple(words[at:end]) for at in range(len(words)) for end in range(at + 1, len(words) + 1)]
        expected.append([sum(run in held[name] for run in runs) for name in tasks])
    assert counts(texts, tasks, ngram) == expected


def test_the_filter_passes_little_clean_text_and_all_that_is_held() -> None:
    random = np.random.default_rng(0)
    items = [" ".join(map(str, random.integers(0, 10**9, 50))) for _ in range(300)]
    index = build_index({"task": items})
    assert index.record.tables == ((13, 300 * 38),)
    (bits,) = index.filters
    assert np.mean([bin(word).count("1") for word in bits.tolist()]) < 64 * 0.13
    assert sum(map(sum, counts(items, {"task": items}))) == 300 * 38


def test_a_stored_index_is_the_same(tmp_path: Path) -> None:
    index = build_index({"one": [ITEM, " ".join(ITEM.split()[:9])], "two": [ITEM]})
    save_index(tmp_path, index)
    loaded = load_index(tmp_path)
    assert loaded.record == index.record
    words = word_hashes(texts_of([ITEM.encode(), b"clean"]))
    assert overlaps(words, loaded).tolist() == overlaps(words, index).tolist() == [[4, 3], [0, 0]]
    for name in ("hashes", "owners"):
        np.load(tmp_path / f"{name}.npy", allow_pickle=False)
    (tmp_path / "index.json").unlink()
    with pytest.raises(FileNotFoundError):
        load_index(tmp_path)


def test_tasks_are_read_from_jsonl(tmp_path: Path) -> None:
    record = {"question": "Which?", "choices": {"text": ["red", "blue"], "label": [1, 2]}, "answer": 1, "note": None}
    plain, packed = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    plain.write_bytes(orjson.dumps(record) + b"\n\n")
    packed.write_bytes(gzip.compress(orjson.dumps({"question": "Who?"})))
    assert read_tasks({"quiz": str(plain), "all": f"file://{tmp_path}/*.jsonl*"}) == {
        "quiz": ["Which?\nred\nblue"],
        "all": ["Which?\nred\nblue", "Who?"],
    }
    assert read_tasks({"quiz": str(plain)}, "question") == {"quiz": ["Which?"]}
    assert read_tasks({"quiz": str(plain)}, "choices") == {"quiz": ["red\nblue"]}


@pytest.mark.parametrize(
    ("data", "field", "message"),
    [
        (b'{"a": "b"}\n{"a": ', None, r"quiz: .*bad\.jsonl, line 2 is not JSON"),
        (b"[1]", None, "line 1 is not a JSON object"),
        (b'{"a": 1}', None, "line 1 has no text in any field"),
        (b'{"a": "b"}', "c", "line 1 has no text in field 'c'"),
    ],
)
def test_a_task_file_that_is_wrong_is_one_line(tmp_path: Path, data: bytes, field: str | None, message: str) -> None:
    (tmp_path / "bad.jsonl").write_bytes(data)
    with pytest.raises(DataMistake, match=message):
        read_tasks({"quiz": str(tmp_path / "bad.jsonl")}, field)


def test_a_task_file_that_is_cut_off_or_missing_is_one_line(tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(orjson.dumps({"a": "b" * 1000}))[:-12])
    with pytest.raises(DataMistake, match=r"cut\.jsonl\.gz cannot be read"):
        read_tasks({"quiz": str(cut)})
    with pytest.raises(DataMistake, match=r"none\.jsonl cannot be read"):
        read_tasks({"quiz": str(tmp_path / "none.jsonl")})
    with pytest.raises(DataMistake, match="no file at"):
        read_tasks({"quiz": str(tmp_path / "none*.jsonl")})
