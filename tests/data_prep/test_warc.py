"""WARC files: the pages of HTML responses, each once; a cut file is named wherever it is cut."""

import gzip
from pathlib import Path

import pytest
import zstandard

from data_prep.build import prepare
from data_prep.config import HeldoutConfig, SourceConfig
from data_prep.errors import DataMistake
from tests.data_prep.corpora import config, files_of
from tests.data_prep.test_documents import read

COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def page(number: int) -> bytes:
    text = f"The wheel of mill number {number} turns in the river, and the miller sleeps. " * 8
    return f"<html><head><title>T</title></head><body><nav>Home</nav><main><p>{text}</p></main></body></html>".encode()


def text(number: int) -> str:
    return (f"The wheel of mill number {number} turns in the river, and the miller sleeps. " * 8).strip()


def record(
    number: int,
    body: bytes | None = None,
    *,
    kind: str = "response",
    headers: str = "Content-Type: text/html; charset=utf-8",
    status: str = "200 OK",
    named: bool = True,
) -> bytes:
    block = f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode() + (page(number) if body is None else body)
    name = f"WARC-Record-ID: <urn:uuid:{number}>\r\n" if named else ""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\n{name}WARC-Target-URI: http://mill.net/{number}\r\n"
        "WARC-Date: 2024-01-01T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


RECORDS = [
    record(0, kind="request"),
    record(1),
    record(2, headers="Content-Type: application/pdf"),
    record(3, status="404 Not Found"),
    record(4, gzip.compress(page(4)), headers="Content-Type: text/html\r\nContent-Encoding: gzip"),
    record(5, b"no gzip", headers="Content-Type: text/html\r\nContent-Encoding: gzip"),
    record(6, named=False),
    record(7, page(7).replace(b"river", "Fluß".encode("latin-1")), headers="Content-Type: text/html; charset=latin-1"),
]
EXPECTED = [
    ("urn:uuid:1", text(1)),
    ("urn:uuid:4", text(4)),
    ("http://mill.net/6", text(6)),
    ("urn:uuid:7", text(7).replace("river", "Fluß")),
    "http_error",
    "not_decodable",
    "not_html",
]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_pages_are_those_of_html_responses(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.warc{suffix}").write_bytes(b"".join(map(COMPRESS[suffix], RECORDS)))
    assert read(tmp_path) == EXPECTED
    assert read(tmp_path, unit_bytes=10) == EXPECTED


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_file_cut_anywhere_is_named(tmp_path: Path, suffix: str) -> None:
    first, second = COMPRESS[suffix](record(1)), COMPRESS[suffix](record(2))
    path = tmp_path / f"cut.warc{suffix}"
    for kept in range(1, len(second), 7):
        path.write_bytes(first + second[:kept])
        with pytest.raises(DataMistake, match=rf"cut\.warc{suffix} is cut off or damaged .*fetch it again") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_what_is_no_warc_is_named_and_nothing_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(b"this is neither" * 100)
    with pytest.raises(DataMistake, match=r"a\.warc is cut off or damaged"):
        read(tmp_path)
    (tmp_path / "a.warc").write_bytes(b"")
    assert read(tmp_path) == []


def test_a_corpus_of_pages_is_the_same_however_the_work_is_cut(tmp_path: Path) -> None:
    for name in "abc":
        records = [record(ord(name) * 100 + i) for i in range(20)] + RECORDS[2:4]
        (tmp_path / f"{name}.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    corpora = []
    for unit_bytes in (1, 10**9):
        source = SourceConfig(name="web", path=f"{tmp_path}/*.warc.gz")
        made = config(tmp_path, sources=(source,), heldout=HeldoutConfig(fraction=0.1), unit_bytes=unit_bytes)
        folder, manifest = prepare(made, tmp_path / f"out-{unit_bytes}", "c", workers=0)
        assert manifest.sources[0].dropped == {"http_error": 3, "not_html": 3}
        assert manifest.sources[0].documents_kept + manifest.sources[0].documents_heldout == 60
        corpora.append(files_of(folder))
    assert corpora[0] == corpora[1]
