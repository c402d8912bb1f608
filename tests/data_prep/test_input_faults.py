"""Inputs that are empty, noise, cut, huge, changing, linked or oddly named: counted, or one clear line."""

import gzip
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep import fetch
from data_prep.config import SourceConfig
from data_prep.documents import read_batches
from data_prep.errors import DataMistake
from data_prep.fingerprints import fingerprints
from data_prep.inputs import InputFile, Slice, cut_units, list_inputs, slice_key
from tests.data_prep.test_documents import lines, read

NOISE = random.Random(0).randbytes(20_000)
SUFFIXES = [f"{kind}{packed}" for kind in (".jsonl", ".txt", ".py", ".html", ".warc") for packed in ("", ".gz", ".zst")]


def source(path: Path | str) -> SourceConfig:
    return SourceConfig(name="s", path=str(path))


def names(path: Path | str, *exclude: str) -> list[str]:
    left = SourceConfig(name="s", path=str(path), exclude=exclude)
    return [file.relative for file in list_inputs(left)]


def mistake(path: Path | str) -> str:
    with pytest.raises(DataMistake) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Contents.


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".parquet"])
def test_a_file_of_no_bytes(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_bytes(b"")
    if suffix in (".jsonl", ".warc"):
        assert read(tmp_path) == []
    elif suffix in (".txt", ".py", ".html"):
        assert read(tmp_path) == [(f"x{suffix}", "")]
    else:
        assert f"x{suffix} is cut off or damaged" in mistake(tmp_path)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".parquet"])
def test_a_file_of_noise(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_bytes(NOISE)
    if suffix == ".jsonl":
        assert set(read(tmp_path)) <= {"not_json", "not_utf8"}
        assert len(read(tmp_path)) == NOISE.count(b"\n") + 1
        assert read(tmp_path, unit_bytes=100) == read(tmp_path)
    elif suffix in (".txt", ".py"):
        assert read(tmp_path) == ["not_utf8"]
    elif suffix == ".html":
        assert len(read(tmp_path)) == 1
    else:
        assert f"x{suffix} is cut off or damaged" in mistake(tmp_path)


def test_a_last_line_that_was_cut_off_is_counted(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(lines({"id": "a", "text": "whole"}) + b'{"id": "b", "text": "cu')
    assert read(tmp_path) == [("a", "whole"), "not_json"]


def test_parquet_cut_anywhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": [f"{i}" * 50 for i in range(100)]}), path)
    whole = path.read_bytes()
    for kept in (1, 4, 11, 12, len(whole) // 2, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:kept])
        assert "x.parquet is cut off or damaged" in mistake(path)
    path.write_bytes(whole[:100] + NOISE[:200] + whole[300:])
    assert "x.parquet is cut off or damaged" in mistake(path)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (pa.array(["a", None, "ü"]).dictionary_encode(), [("x.parquet#0", "a"), ("x.parquet#2", "ü"), "no_text"]),
        (pa.array(["a", "ü"], pa.string_view()), [("x.parquet#0", "a"), ("x.parquet#1", "ü")]),
        (pa.array([b"ab", b"\xff\xff"], pa.binary(2)), [("x.parquet#0", "ab"), "not_utf8"]),
        (pa.array([1, 2]), ["no_text", "no_text"]),
        (pa.array([["a"], None]), ["no_text", "no_text"]),
        (pa.nulls(2), ["no_text", "no_text"]),
        (pa.array([], pa.string()), []),
    ],
)
def test_parquet_columns_of_each_type(tmp_path: Path, texts: pa.Array, expected: list[object]) -> None:
    pq.write_table(pa.table({"text": texts}), tmp_path / "x.parquet")
    assert read(tmp_path) == expected


def test_parquet_ids_of_each_type(tmp_path: Path) -> None:
    for ids, expected in (
        (["a", "", None], ["a", "x.parquet#1", "x.parquet#2"]),
        ([1, None, -3], ["1", "x.parquet#1", "-3"]),
        ([True, False, None], ["x.parquet#0", "x.parquet#1", "x.parquet#2"]),
        ([b"a", b"b", None], ["x.parquet#0", "x.parquet#1", "x.parquet#2"]),
    ):
        pq.write_table(pa.table({"text": ["t"] * 3, "id": ids}), tmp_path / "x.parquet")
        assert [one[0] for one in read(tmp_path)] == expected


MEASURED = """
import resource, sys
from pathlib import Path
from data_prep.config import SourceConfig
from data_prep.documents import read_batches
from data_prep.inputs import cut_units, list_inputs
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
source = SourceConfig(name="s", path=sys.argv[1])
def all_sizes(path):
    source = SourceConfig(name="s", path=path)
    units = cut_units(0, list_inputs(source), 16_000_000)
    return [size for unit in units for batch in read_batches(unit.slices, source) for size in batch.texts.sizes.tolist()]
all_sizes(sys.argv[1])  # what the libraries take
before = peak()
print(all_sizes(sys.argv[2]) == [int(sys.argv[3]), 3], (peak() - before) / int(sys.argv[3]))
"""


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.zst"])
def test_a_line_of_100_mb_costs_a_few_times_its_size(tmp_path: Path, suffix: str) -> None:
    size = 100_000_000
    data = b'{"text": "' + b"0123456789" * (size // 10) + b'"}\n{"text": "end"}\n'
    (tmp_path / f"long{suffix}").write_bytes(zstandard.compress(data) if suffix.endswith("zst") else data)
    (tmp_path / "small.jsonl").write_bytes(lines({"text": "x"}))
    command = [sys.executable, "-c", MEASURED, tmp_path / "small.jsonl", tmp_path / f"long{suffix}", str(size)]
    out = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()}
    )
    right, times = out.stdout.split()
    assert right == "True"
    assert float(times) < 5


# What happens to a file between its listing and its reading.


def listed(path: Path) -> tuple[SourceConfig, tuple[Slice, ...]]:
    [unit] = cut_units(0, list_inputs(source(path)), 10**9)
    return source(path), unit.slices


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.parquet", "x.txt"])
def test_a_file_that_changes_or_goes_after_the_listing_is_named(tmp_path: Path, name: str) -> None:
    def write(data: bytes) -> None:
        if name.endswith("parquet"):
            pq.write_table(pa.table({"text": [data.decode()]}), tmp_path / name)
        else:
            (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)

    write(lines({"text": "one"}))
    settings, slices = listed(tmp_path / name)
    for data in (lines({"text": "one"}, {"text": "two"}), lines({"text": "two"}), b""):
        write(data)
        with pytest.raises(DataMistake, match=rf"{name} was changed since the inputs were listed; run again"):
            list(read_batches(slices, settings))
        with pytest.raises(DataMistake, match=rf"{name} was changed since the inputs were listed; run again"):
            fingerprints(tmp_path / "out", [slices[0].file])
    (tmp_path / name).unlink()
    with pytest.raises(DataMistake, match=rf"{name} is gone since the inputs were listed"):
        list(read_batches(slices, settings))


def test_a_file_that_grows_while_it_is_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines(*({"text": f"{i}"} for i in range(50))))
    settings, slices = listed(path)
    monkeypatch.setattr(fetch, "LOCAL_BYTES", 100)
    batches = read_batches(slices, settings, batch_bytes=1)
    next(batches)
    with path.open("ab") as file:
        file.write(lines({"text": "more"}))
    with pytest.raises(DataMistake, match=r"x\.jsonl was changed since"):
        list(batches)


# Places and names.


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "ü水",
        "100%41",
        "a#1",
        "[x]",
        "x*",
        "what?",
        "a::b",
        "a{b,c}",
        "-x",
        "~x",
        "a\\b",
        "a\nb",
        ".hidden",
        "s3:x",
    ],
)
def test_names_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / f"{name}.jsonl").write_bytes(lines({"text": "t"}))
    pq.write_table(pa.table({"text": ["p"]}), tmp_path / name / f"{name}.parquet")
    for folder in (tmp_path / name, f"file://{tmp_path / name}"):
        assert read(folder) == [(f"{name}.jsonl#0", "t"), (f"{name}.parquet#0", "p")]
        assert read(f"{folder}/{name}.jsonl") == [(f"{name}.jsonl#0", "t")]
    assert read(tmp_path / "*" / "*.jsonl") == [(f"{name}/{name}.jsonl#0", "t")]


def test_a_glob_goes_as_deep_as_it_says(tmp_path: Path) -> None:
    for name in ("a.txt", "b/a.txt", "b/c/a.txt", "b/c/b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert names(tmp_path / "*.txt") == ["a.txt"]
    assert names(tmp_path / "*" / "*.txt") == ["b/a.txt"]
    assert names(tmp_path / "**" / "a.txt") == ["a.txt", "b/a.txt", "b/c/a.txt"]
    assert "matches no file" in mistake(tmp_path / "b" / "[ab]*" / "*")
    assert names(tmp_path / "b" / "[abc]" / "?.txt") == ["c/a.txt", "c/b.txt"]


def test_a_folder_is_no_file_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()
    (tmp_path / "x.jsonl" / "y.txt").write_text("t")
    assert read(tmp_path / "x.jsonl") == read(tmp_path / "x.jsonl/") == [("y.txt", "t")]
    assert "matches no file" in mistake(tmp_path / "*.jsonl")


def test_links_are_followed_and_those_to_nothing_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.txt").write_text("t")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file.txt").symlink_to(tmp_path / "real" / "x.txt")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "real")
    assert read(tmp_path / "in") == [("file.txt", "t"), ("folder/x.txt", "t")]
    assert read(tmp_path / "in" / "**" / "x.txt") == [("folder/x.txt", "t")]
    (tmp_path / "in" / "lost.txt").symlink_to(tmp_path / "nowhere")
    assert "lost.txt is a link to nothing" in mistake(tmp_path / "in")
    assert "lost.txt is a link to nothing" in mistake(tmp_path / "in" / "lost.txt")
    assert read(tmp_path / "in" / "f*.txt") == [("file.txt", "t")]
    (tmp_path / "in" / "lost.txt").unlink()
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    assert "again links to a folder that it is in" in mistake(tmp_path / "in")


def test_what_is_neither_a_file_nor_a_folder_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.txt")
    assert "x.txt is neither a file nor a folder" in mistake(tmp_path)


UNREADABLE = """
import os, sys
from data_prep.config import SourceConfig
from data_prep.documents import read_batches
from data_prep.errors import DataMistake
from data_prep.inputs import cut_units, list_inputs
def read(path):
    source = SourceConfig(name="s", path=path)
    try:
        return [batch.ids for unit in cut_units(0, list_inputs(source), 10**9) for batch in read_batches(unit.slices, source)]
    except DataMistake as error:
        return error
print(read(sys.argv[1]))  # imports what is needed while it can
if os.geteuid() == 0:
    os.seteuid(65534)
print(*map(read, sys.argv[2:]), sep="\\n")
"""


def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir()
    (tmp_path / "shut" / "x.txt").write_text("t")
    (tmp_path / "y.txt").write_text("t")
    (tmp_path / "z.txt").write_text("t")
    for path, mode in (
        (tmp_path / "shut", 0o000),
        (tmp_path / "y.txt", 0o000),
        *((up, 0o755) for up in closed(tmp_path)),
    ):
        path.chmod(mode)
    out = subprocess.run(
        [sys.executable, "-c", UNREADABLE, tmp_path / "z*.txt", tmp_path, tmp_path / "y.txt"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    (tmp_path / "shut").chmod(0o755)
    readable, first, second = out.stdout.splitlines()
    assert readable == "[['z.txt']]"
    assert f"cannot be listed: Permission denied ({tmp_path}/shut); check that it can be read" in first
    assert second == f"{tmp_path}/y.txt cannot be read: Permission denied; check its permissions"


def closed(path: Path) -> list[Path]:
    """The folders above that pytest made for its user alone."""
    return [up for up in (path, *path.parents) if up.stat().st_uid == os.getuid() and up.stat().st_mode & 0o77 == 0]


# What is left out.


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        ".git/x.py",
        "a.py",
        "build/b.py",
        "sub/build/c.py",
        "sub/node_modules/d.pdf",
        "sub/e.min.js",
        "sub/f.js",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        ((".git", "node_modules"), ["a.py", "build/b.py", "sub/build/c.py", "sub/e.min.js", "sub/f.js"]),
        ((".git", "node_modules", "build"), ["a.py", "sub/e.min.js", "sub/f.js"]),
        ((".git/", "node_modules/", "/build"), ["a.py", "sub/build/c.py", "sub/e.min.js", "sub/f.js"]),
        ((".*", "sub/node_modules", "*.min.js"), ["a.py", "build/b.py", "sub/build/c.py", "sub/f.js"]),
        (("**/*.py", "*.pdf"), ["sub/e.min.js", "sub/f.js"]),
        (("s?b", "[!a-z]git"), ["a.py", "build/b.py"]),
    ],
)
def test_patterns_leave_out_names_and_paths(tree: Path, exclude: tuple[str, ...], expected: list[str]) -> None:
    assert names(tree, *exclude) == expected
    assert names(tree / "**", *exclude) == expected


def test_what_is_not_left_out_must_be_of_a_known_kind(tree: Path) -> None:
    for path in (tree, tree / "**"):
        with pytest.raises(DataMistake, match=r"sub/node_modules/d\.pdf has an unknown extension"):
            names(path, ".git")
    with pytest.raises(DataMistake, match="no file is left"):
        names(tree, "*")


# What names the documents of a slice.


def test_a_slice_is_named_by_what_its_documents_depend_on() -> None:
    def key(settings: SourceConfig | None = None, digest: str = "d", start: int = 0, **changes: object) -> object:
        facts: dict[str, object] = {"url": "/a/x.jsonl", "relative": "x.jsonl", "kind": "jsonl", "compression": ""}
        file = InputFile(**(facts | {"size_bytes": 9, "version": "v"} | changes))  # type: ignore[arg-type]
        return slice_key(Slice(file=file, start=start, end=9), digest, settings or source("/a"))

    assert key() == key(url="/b/x.jsonl") == key(version="w") == key(source("/b"))
    body = SourceConfig(name="s", path="/a", text_field="body")
    others = [key(body), key(digest="e"), key(start=1), key(relative="y.jsonl"), key(compression=".gz")]
    assert all(other != key() for other in others)
    assert key(body, kind="text") == key(kind="text"), "a whole file has no fields"
