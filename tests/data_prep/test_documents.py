"""Readers: the same documents however the work is cut; bad documents are counted, bad files are named."""

import gzip
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from unittest import mock

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep import jsonl
from data_prep.config import SourceConfig
from data_prep.documents import read_batches
from data_prep.errors import DataMistake
from data_prep.inputs import Slice, cut_units, list_inputs
from data_prep.jsonl import read_lines

Read = list[tuple[str, str] | str]
"""(id, text) of documents in order, then the reasons of bad ones, sorted."""


def read(path: Path | str, unit_bytes: int = 10**9, text_field: str = "text", batch_bytes: int = 10**9) -> Read:
    """All that a source has, through units and batches of the given size."""
    source = SourceConfig(name="s", path=str(path), text_field=text_field)
    found: Read = []
    bad: Counter[str] = Counter()
    for unit in cut_units(0, list_inputs(source), unit_bytes):
        for batch in read_batches(unit.slices, source, batch_bytes):
            assert len(batch.ids) == len(batch.texts)
            assert len(batch.texts.data) <= batch_bytes or len(batch.ids) == 1
            found += [(name, batch.texts[place].decode()) for place, name in enumerate(batch.ids)]
            bad += batch.bad
    return found + sorted(bad.elements())


def lines(*records: object) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


line = st.one_of(
    st.builds(lambda text: json.dumps({"text": text}, ensure_ascii=False).encode(), st.text(max_size=60)),
    st.sampled_from([b"", b"  ", b"{", b'{"text": "\xff"}', b'{"other": 1}', b"[1]", b'{"text": null, "id": "x"}']),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(line, max_size=8), st.booleans(), st.booleans(), st.sampled_from([b"\n", b"\r\n"]))
def test_every_cut_reads_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, some: list[bytes], marked: bool, ended: bool, newline: bytes
) -> None:
    path = tmp_path_factory.mktemp("ranges") / "a.jsonl"
    data = (b"\xef\xbb\xbf" if marked else b"") + newline.join(some) + (newline if ended else b"")
    path.write_bytes(data)
    source = SourceConfig(name="s", path=str(path))
    [file] = list_inputs(source)

    def documents(*cuts: int) -> tuple[list[tuple[str, bytes]], Counter[str]]:
        pieces = [Slice(file=file, start=start, end=end) for start, end in pairwise((0, *cuts, len(data)))]
        batches = list(read_batches(pieces, source))
        found = [(name, batch.texts[i]) for batch in batches for i, name in enumerate(batch.ids)]
        return found, sum((batch.bad for batch in batches), Counter())

    whole = documents()
    assert whole == by_orjson(data)
    for cut in range(len(data) + 1):
        assert documents(cut) == whole
        assert documents(cut // 2, cut) == whole


def by_orjson(data: bytes) -> tuple[list[tuple[str, bytes]], Counter[str]]:
    """What the lines of a.jsonl are, said as simply as can be."""
    documents, bad, offset = [], Counter[str](), 0
    for line in data.split(b"\n"):
        bare = line.removeprefix(b"\xef\xbb\xbf") if offset == 0 else line
        if bare and not bare.isspace():
            try:
                record = orjson.loads(bare)
                text = record.get("text") if isinstance(record, dict) else None
                if isinstance(text, str):
                    given = record.get("id")
                    is_id = isinstance(given, str) or (isinstance(given, int) and not isinstance(given, bool))
                    documents.append((str(given) if is_id and given != "" else f"a.jsonl#{offset}", text.encode()))
                else:
                    bad["no_text"] += 1
            except orjson.JSONDecodeError:
                bad["not_utf8" if bare.decode(errors="ignore").encode() != bare else "not_json"] += 1
        offset += len(line) + 1
    return documents, bad


string = st.one_of(
    st.builds(lambda text, ascii: json.dumps(text, ensure_ascii=ascii), st.text(max_size=30), st.booleans()),
    st.sampled_from(
        [
            '"\\ud800"',
            '"\\ud83d\\u0041"',
            '"\\uDC00"',
            '"\\ud83D\\uDe00"',
            '"\\/\\b\\f"',
            '"\\x"',
            '"\x7f"',
            '"\x01"',
            '""',
        ]
    ),
)
number = st.sampled_from(
    [
        "0",
        "-0",
        "7",
        "01",
        "-1",
        "1.",
        "1.5",
        ".5",
        "1e5",
        "1E+99",
        "1e-400",
        "1e999",
        "9" * 18,
        "9" * 19,
        "9" * 400,
        "0." + "1" * 60,
    ]
)
value = st.recursive(
    st.one_of(string, number, st.sampled_from(["true", "false", "null", "nul", "NaN", "truer", ""])),
    lambda inner: st.one_of(
        st.builds(lambda some: "[" + ",".join(some) + "]", st.lists(inner, max_size=3)),
        st.builds(
            lambda some: "{" + " , ".join(map(":".join, some)) + "}", st.lists(st.tuples(string, inner), max_size=3)
        ),
    ),
    max_leaves=6,
)
key = st.one_of(st.sampled_from(['"text"', '"text"', '"id"', '"te\\u0078t"', '"texts"', "text"]), string)
record = st.builds(
    lambda text, others, space: (
        "{" + f",{space}".join([f'"text"{space}:{text}', *map(f"{space}:".join, others)]) + "}" + space
    ),
    st.one_of(string, value),
    st.lists(st.tuples(key, value), max_size=4),
    st.sampled_from(["", " ", "\t \r"]),
)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A record with a byte changed."""
    data = bytearray(draw(record).encode())
    data[draw(st.integers(0, len(data) - 1))] = draw(
        st.one_of(st.sampled_from(b'"\\{}[]:,\xff\xc3\xed\xa0'), st.integers(0, 255))
    )
    return bytes(data)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.one_of(st.builds(str.encode, record), spoiled()), max_size=8))
def test_what_the_kernel_reads_is_what_orjson_reads(some: list[bytes]) -> None:
    data = b"\n".join(some)
    ids, texts, bad = read_lines(data, 0, "a.jsonl", "text", "id")
    assert (list(zip(ids, (texts[i] for i in range(len(texts))), strict=True)), bad) == by_orjson(data)


plain = st.integers(0, 99).map(lambda number: b'{"text": "%d"}' % number)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.one_of(plain, st.builds(str.encode, record), spoiled()), max_size=20),
    st.integers(1, 6),
    st.integers(2, 9),
)
@example([b'{"text": "one"}', b'{"text": "two"}', b'{"text": "three"}'], 3, 2)
def test_blocks_of_lines_are_gathered_as_they_are_read_at_once(some: list[bytes], at_once: int, rows: int) -> None:
    """Whatever the lines of a block, and however often the table of documents has to grow."""
    data = b"".join(line + b"\n" for line in some)
    with mock.patch.object(jsonl, "FEW_DOCUMENTS", rows):
        lines, offset = jsonl.Lines("a.jsonl", "text", "id", len(data)), 0
        for first in range(0, len(some), at_once):
            block = b"".join(line + b"\n" for line in some[first : first + at_once])
            assert lines.has_room(len(block))
            lines.read(block + jsonl.END, offset)
            offset += len(block)
    ids, texts, bad = lines.documents()
    assert (list(zip(ids, (texts[i] for i in range(len(texts))), strict=True)), bad) == by_orjson(data)


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "a", "text": "b"}',
        b'{"text": "a", "id": "b", "id": "c"}',
        b'{"text": "a", "text": null}',
        b'{"text": "a", "id": "b", "id": 1.5}',
        b'{"te\\u0078t": "a", "text": "b"}',
        b'{"text": "b", "te\\u0078t": "a"}',
        b'{"text": "a", "b": 1e999}',
        b'{"text": "a", "b": -1e99}',
        b'{"text": "a", "b": 01}',
        b'{"text": "a", "id": -0}',
        b'{"text": "a", "id": 12345678901234567890123}',
        b'{"text": "a"},',
        b'{"text": "a",}',
        b'{"text": "a"} {}',
        b'{"text": "\\ud83d\\u0041"}',
        b"\x0b",
        b'\x00{"text": "a"}',
    ],
)
def test_odd_lines_are_what_orjson_says(line: bytes) -> None:
    ids, texts, bad = read_lines(line, 0, "a.jsonl", "text", "id")
    assert (list(zip(ids, (texts[i] for i in range(len(texts))), strict=True)), bad) == by_orjson(line)


@pytest.mark.parametrize("depth", [3, 60, 61, 900, 1025])
def test_nesting_of_any_depth(depth: int) -> None:
    data = b'{"text": "a", "b": ' + b"[" * depth + b"]" * depth + b"}\n"
    ids, _, bad = read_lines(data, 5, "a.jsonl", "text", "id")
    assert (ids, bad) == ((["a.jsonl#5"], {}) if depth < 1024 else ([], {"not_json": 1}))


def test_characters_of_each_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """The borders of table 3-7 of the Unicode standard, and what lies beyond them, wherever in a word of eight bytes."""
    edges = [
        0x7F,
        0x80,
        0x7FF,
        0x800,
        0xFFF,
        0x1000,
        0xD7FF,
        0xE000,
        0xFFFF,
        0x10000,
        0x3FFFF,
        0x40000,
        0xFFFFF,
        0x10FFFF,
    ]
    good = [chr(edge).encode() for edge in edges]
    wrong = [
        b"\x80",
        b"\xc1\xbf",
        b"\xc2",
        b"\xc2\xc2",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf0\x8f\xbf\xbf",
    ]
    wrong += [b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xe1\x80", b"\xf1\x80\x80", b"\xff"]
    for before in range(9):
        data = b"".join(b'{"text":"%s%s"}\n' % (b"a" * before, one) for one in good + wrong)
        assert read_lines(data, 0, "a.jsonl", "text", "id")[2] == {"not_utf8": len(wrong)}
        data = b"".join(b'{"text":"%s%s"}\n' % (b"a" * before, one) for one in good)
        with monkeypatch.context() as patched:
            patched.setattr(jsonl, "_ask_orjson", None)
            _, texts, _ = read_lines(data, 0, "a.jsonl", "text", "id")
        assert [texts[i] for i in range(len(texts))] == [b"a" * before + one for one in good]


def test_ordinary_records_need_no_orjson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "_ask_orjson", None)
    extra = {"score": -0.25e-3, "tags": ["a", 1, None, {"b": [True, {}]}], "url": 'http://x/ü?"', "empty": []}
    for ascii in (True, False):
        data = b"".join(
            json.dumps({"id": name, **extra, "text": f"Ünï 水 😀 \n {name}"}, ensure_ascii=ascii).encode() + b"\r\n \n"
            for name in ("a", "ü", 7, 0, None)
        )
        ids, texts, bad = read_lines(data, 100, "f", "text", "id")
        assert [name.partition("#")[0] for name in ids] == ["a", "ü", "7", "0", "f"]
        assert texts[1].decode() == "Ünï 水 😀 \n ü"
        assert not bad


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
    expected = [(f"x.parquet#{i}", text) for i, text in enumerate(texts) if text is not None] + ["no_text"]
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
