"""What the comparison with datatrove rests on: the same text for both, the same work by both, and steps that exist."""

import ast
import io
import tarfile
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

import data_prep
from benchmarks import prep, prep_steps, text_of_packages
from benchmarks.text_of_packages import LEAST_BYTES, MOST_BYTES, beginning, dealt, document
from data_prep.jsonl import read_lines
from data_prep.small import byte_tokenizer
from data_prep.tokenizer import Encoder


def outcome(**changed: int) -> prep.Outcome:
    values = {"seconds": 1.0, "documents": 10, "kept": 10, "tokens": 500, "dropped": {}}
    return prep.Outcome(**(values | changed))


def test_sides_that_did_other_work_are_not_compared() -> None:
    prep.check("tokenize", outcome(), outcome(seconds=30.0))
    prep.check("full", outcome(tokens=499), outcome())
    with pytest.raises(SystemExit, match="headrace has 499 tokens, datatrove 500"):
        prep.check("tokenize", outcome(tokens=499), outcome())
    with pytest.raises(SystemExit, match="headrace has 9 documents"):
        prep.check("full", outcome(documents=9), outcome())


def test_every_function_of_a_step_exists_in_data_prep() -> None:
    """A renamed function would silently leave its step at nothing and its time in "other"."""
    folder = Path(data_prep.__file__).parent
    there = {
        f"{path.name}:{node.name}"
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {function for functions in prep.STEPS.values() for function in functions} <= there


def test_time_of_steps_is_cumulative_and_only_ours() -> None:
    stats = {
        ("/x/data_prep/clean.py", 18, "clean_all"): (1, 1, 0.1, 2.0, {}),
        ("/x/other/clean.py", 18, "clean_all"): (1, 1, 0.1, 7.0, {}),
        ("/x/data_prep/choosing.py", 1, "keys_of"): (1, 1, 0.5, 0.5, {}),
        ("/x/data_prep/choosing.py", 9, "choose"): (1, 1, 0.25, 0.25, {}),
    }
    seconds = prep.seconds_of_steps(SimpleNamespace(stats=stats))
    assert seconds["clean"] == 2.0
    assert seconds["choose"] == 0.75
    assert sum(seconds.values()) == 2.75
    assert "| other | 1.25 | 31% | 8 |" in prep.table(seconds, 4.0, size_mb=10.0)


def test_every_step_runs_over_the_same_part(tmp_path: Path) -> None:
    lines = [
        orjson.dumps({"id": str(place), "text": f"The {place}th line of prose ends here.\n" * 9}) for place in range(50)
    ]
    (tmp_path / "part-00.jsonl").write_bytes(b"\n".join([*lines, b""]))
    [part] = prep_steps.parts(tmp_path)
    texts = read_lines(part, 0, "text", "text", "id")[1]
    assert len(texts) == 50
    for run in prep_steps.steps_of(part, texts, Encoder(byte_tokenizer(), "tokenizers")).values():
        run()


def test_funnels_stand_beside_each_other() -> None:
    mine = prep.Outcome(seconds=1, documents=10, kept=7, tokens=5, dropped={"top_2gram": 1, "stop_words": 2})
    shown = prep.funnels({"headrace": [mine], "datatrove": [outcome()]}).splitlines()
    assert shown[0].split() == ["headrace", "datatrove"]
    assert shown[1].split() == ["read", "10", "read", "10"]
    assert shown[2].split() == ["stop_words", "2", "kept", "10"]
    assert shown[-1].split() == ["tokens", "5"]


def test_the_run_of_each_side_is_a_valid_config(tmp_path: Path) -> None:
    import yaml

    from pipeline.config import load_config

    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(prep.run_config("tokenize", tmp_path, tmp_path, tmp_path / "tokenizer.json")))
    data = load_config(path).data
    assert not data.dedup.exact
    assert data.heldout.fraction == 0
    assert data.sources[0].rules == "none"


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.c", b"int x;\r\n" * 50, "int x;\n" * 50),
        ("a.html", b"<html><body><p>" + b"word " * 90 + b"</p></body></html>", ("word " * 90).strip()),
        ("short.c", b"x" * (LEAST_BYTES - 1), None),
        ("long.c", b"x" * (MOST_BYTES + 1), None),
        ("latin.c", b"\xe9" * 300, None),
        ("special.c", b"<|endoftext|>" * 30, None),
    ],
)
def test_only_text_that_every_tokenizer_sees_alike(name: str, data: bytes, text: str | None) -> None:
    assert document(name, data) == text


def test_hands_are_of_one_size_and_do_not_depend_on_the_order() -> None:
    lines = [bytes([65 + n % 26]) * (1 + n * n % 90) + b"\n" for n in range(200)]
    hands = dealt(lines, 4)
    assert sorted(line for hand in hands for line in hand) == sorted(lines)
    assert hands == dealt(lines[::-1], 4)
    sizes = [sum(map(len, hand)) for hand in hands]
    assert max(sizes) - min(sizes) <= 91


def test_a_kind_with_too_little_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "prose.jsonl"
    path.write_bytes(b"x" * 999_999 + b"\n" + b"y\n")
    assert len(list(beginning(path, 1))) == 1
    with pytest.raises(ValueError, match="ends 999,998 bytes before 2 MB"):
        list(beginning(path, 2))


def test_a_tar_inside_a_package_is_read_too() -> None:
    inner, outer = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as tar:
        _add(tar, "linux/a.c", b"int a;")
    with tarfile.open(fileobj=outer, mode="w") as tar:
        _add(tar, "usr/src/linux.tar.xz", inner.getvalue())
        _add(tar, "usr/b.html", b"<p>")
    outer.seek(0)
    with tarfile.open(fileobj=outer, mode="r|") as tar:
        assert list(text_of_packages._members(tar)) == [("linux/a.c", b"int a;"), ("usr/b.html", b"<p>")]


def test_everything_is_one_line_a_document_in_the_order_of_hashed_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [(f"usr/{n}.c", f"int x{n};\n".encode() * 40) for n in range(6)] + [("usr/page.html", b"<p>word" * 100)]
    monkeypatch.setattr(text_of_packages, "PACKAGES", {"code": ("one", "two")})
    monkeypatch.setattr(text_of_packages, "download", lambda cache, package: Path(package))
    monkeypatch.setattr(
        text_of_packages, "members", lambda package: iter(files if package.name == "one" else files[:1])
    )
    lines = text_of_packages.everything(tmp_path, "code").read_bytes().splitlines()
    ids = [orjson.loads(line)["id"] for line in lines]
    assert sorted(ids) == sorted([*(f"one:usr/{n}.c" for n in range(6)), "two:usr/0.c"])
    assert ids != sorted(ids)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
