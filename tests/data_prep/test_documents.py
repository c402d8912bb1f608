"""Readers: the same documents however the work is cut; bad documents are counted, bad files are named."""

import gzip
import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.config import SourceConfig
from data_prep.documents import BadDocument, Document, read_slice
from data_prep.errors import DataMistake
from data_prep.inputs import cut_units, list_inputs

Read = list[tuple[str, str] | str]
"""(id, text) of documents and reasons of bad ones."""


def read(path: Path | str, unit_bytes: int = 10**9, text_field: str = "text") -> Read:
    """All that a source has, through units of the given size."""
    source = SourceConfig(name="s", path=str(path), text_field=text_field)
    found: Read = []
    for unit in cut_units(0, list_inputs(source), unit_bytes):
        for piece in unit.slices:
            for one in read_slice(piece, source):
                found.append(one.reason if isinstance(one, BadDocument) else (one.id, one.text))
    return found


def lines(*records: object) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


line = st.one_of(
    st.builds(lambda text: json.dumps({"text": text}, ensure_ascii=False).encode(), st.text(max_size=60)),
    st.sampled_from([b"", b"  ", b"{", b'{"text": "\xff"}', b'{"other": 1}', b"[1]", b'{"text": null, "id": "x"}']),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(line, max_size=15), st.booleans(), st.integers(1, 200))
def test_byte_ranges_read_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, some: list[bytes], ended: bool, unit_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("ranges") / "a.jsonl"
    path.write_bytes(b"\n".join(some) + (b"\n" if ended else b""))
    assert read(path, unit_bytes) == read(path)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_compressed_lines_are_the_same_documents(tmp_path: Path, suffix: str) -> None:
    data = lines({"id": "a", "text": "one"}, {"text": "zwei ü"}, {"id": 7, "text": "3"}) + b'{"text": "last"}'
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    # Two members, as `cat a.gz b.gz` makes them.
    (tmp_path / f"x.jsonl{suffix}").write_bytes(compress(data[:40]) + compress(data[40:]))
    place = len(lines({"id": "a", "text": "one"}))
    assert read(tmp_path) == [
        ("a", "one"),
        (f"x.jsonl{suffix}#{place}", "zwei ü"),
        ("7", "3"),
        (f"x.jsonl{suffix}#{data.rindex(b'{')}", "last"),
    ]


def test_bad_documents_end_in_reasons(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(
        lines({"text": "good", "id": "g"}, {"text": 3}, {}, [1]) + b'nonsense\n{"text": "\xff\xfe"}\n\n'
    )
    (tmp_path / "binary.txt").write_bytes(b"\x00\xff\xfe")
    assert read(tmp_path) == [("g", "good"), "no_text", "no_text", "no_text", "not_json", "not_utf8", "not_utf8"]


def test_parquet_rows_by_row_groups(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(50)]
    texts[7] = None
    pq.write_table(pa.table({"body": texts, "n": range(50)}), tmp_path / "x.parquet", row_group_size=7)
    expected = [f"no_text" if text is None else (f"x.parquet#{i}", text) for i, text in enumerate(texts)]  # noqa: F541
    assert read(tmp_path, text_field="body") == expected
    assert read(tmp_path, unit_bytes=1, text_field="body") == expected
    with pytest.raises(DataMistake, match=r"x\.parquet has no column 'text' but body, n; set sources\.s\.text_field"):
        read(tmp_path)


def test_parquet_bytes_that_are_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [b"ok", b"\xff"], "id": [1, 2]}), tmp_path / "x.parquet")
    assert read(tmp_path) == [("1", "ok"), "not_utf8"]


def test_whole_files_are_documents_named_by_their_place(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.py").write_text("print()\n")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("größer".encode()))
    assert read(tmp_path) == [("a.txt.gz", "größer"), ("b/x.py", "print()\n")]
    assert read(tmp_path / "**" / "*.py") == [("b/x.py", "print()\n")]
    assert read(tmp_path / "b" / "x.py") == [("x.py", "print()\n")]


def test_any_fsspec_url() -> None:
    with fsspec.open("memory://somewhere/deep/x.jsonl", "wb") as file:
        file.write(lines({"text": "from memory"}))
    assert read("memory://somewhere/**/*.jsonl") == [("deep/x.jsonl#0", "from memory")]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_cut_file_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    data = lines(*({"text": f"{i} " * 50} for i in range(400)))
    packed = gzip.compress(data) if suffix == ".gz" else zstandard.compress(data)
    path = tmp_path / f"cut.jsonl{suffix}"
    path.write_bytes(packed[: int(len(packed) * kept)])
    with pytest.raises(DataMistake, match=rf"cut\.jsonl{suffix} is cut off or damaged .*fetch it again") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.parquet", "x.txt.gz"])
def test_a_file_that_is_something_else_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is neither" * 100)
    with pytest.raises(DataMistake, match=rf"{name} is cut off or damaged"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.jsonl", r"sources\.s\.path: .*missing\.jsonl does not exist; check the path"),
        ("none/*.jsonl", r"matches no file; check the pattern"),
        ("", r"is an empty folder"),
    ],
)
def test_no_files_is_a_mistake(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(DataMistake, match=message):
        list_inputs(SourceConfig(name="s", path=f"{tmp_path}/{path}"))


def test_an_unknown_extension_is_named(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("x")
    (tmp_path / "odd.pdf").write_text("x")
    with pytest.raises(DataMistake, match=r"odd\.pdf has an unknown extension; headrace reads .*narrow the path"):
        list_inputs(SourceConfig(name="s", path=str(tmp_path)))


def test_files_come_in_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a.txt", "B.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    names = [file.relative for file in list_inputs(SourceConfig(name="s", path=str(tmp_path)))]
    assert names == sorted(names) == ["B.txt", "a.txt", "a/z.txt", "b.txt"]


def test_units_are_about_as_big_as_asked(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i:02d}.txt").write_text("x" * 100)
    (tmp_path / "big.jsonl").write_bytes(lines(*({"text": "y" * 50} for _ in range(100))))
    units = cut_units(0, list_inputs(SourceConfig(name="s", path=str(tmp_path))), 500)
    assert [len(unit.slices) for unit in units[:4]] == [5, 5, 5, 5]
    assert len(units) - 4 == -(-(tmp_path / "big.jsonl").stat().st_size // 500)


def test_documents_say_where_they_are_from(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(lines({"text": "t"}))
    source = SourceConfig(name="s", path=str(tmp_path))
    [file] = list_inputs(source)
    [unit] = cut_units(0, [file], 100)
    assert list(read_slice(unit.slices[0], source)) == [Document("x.jsonl#0", "t", "s", {"file": "x.jsonl"})]
