"""Inputs in S3, from a real server: the same corpus as from a disk, whatever the store does on the way."""

import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from data_prep import fetch, remote
from data_prep.build import find_corpus, prepare
from data_prep.config import CorpusConfig, SourceConfig
from data_prep.documents import read_batches
from data_prep.errors import DataError, DataMistake
from data_prep.fingerprints import fingerprints, known_fingerprints
from data_prep.inputs import cut_units, list_inputs
from data_prep.manifest import Manifest
from tests.data_prep.corpora import config, files_of, write_inputs
from tests.data_prep.test_documents import lines, read
from tests.s3_server import Proxy, connect, proxy, put, put_folder, s3_server

RECORDS = [{"id": f"d{i}", "text": f"größer {i} " * (i % 7)} for i in range(120)]


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture(autouse=True)
def client(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The user's environment, without waits and without the tries of s3fs, which would hide our own."""
    connect(server, monkeypatch)
    monkeypatch.setattr(remote, "PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 60}})
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def failing(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(server) as between:
        connect(between.port, monkeypatch)
        yield between


@pytest.fixture(scope="module")
def bucket(server: int, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bucket of files of each kind, under names that are not plain."""
    folder = tmp_path_factory.mktemp("bucket")
    (folder / "a b").mkdir()
    (folder / "a b" / "ü 100%41 #1 [x] (2)+&=?.jsonl").write_bytes(lines(*RECORDS))
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "x.jsonl.gz").write_bytes(gzip.compress(lines(*RECORDS[:50])))
    pq.write_table(pa.Table.from_pylist(RECORDS), folder / "deep" / "x.parquet", row_group_size=40)
    (folder / "deep" / "empty.txt").write_bytes(b"")
    put(server, "mixed")
    put_folder(server, "mixed", folder)
    return str(folder)


@pytest.mark.parametrize(
    "path", ["", "/", "/deep", "/deep/*.parquet", "/**/*.jsonl*", "/a b/ü 100%41 #1 [x] (2)+&=?.jsonl"]
)
def test_the_same_documents_as_from_a_disk(bucket: str, path: str) -> None:
    expected = read(bucket + path)
    assert read(f"s3://mixed{path}") == expected
    assert read(f"s3://mixed{path}", unit_bytes=1_000) == expected
    assert len(expected) >= 120


def test_ranges_of_any_size_are_the_same_documents(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(f"{bucket}/a b")
    monkeypatch.setattr(fetch, "OVERLAP_BYTES", 7)
    for size in (997, 5_000):
        monkeypatch.setattr(fetch, "RANGE_BYTES", size)
        assert read("s3://mixed/a b", unit_bytes=4_000) == expected


def test_a_folder_of_a_bucket_can_be_left_out(bucket: str) -> None:
    source = SourceConfig(name="s", path="s3://mixed")
    names = [file.relative for file in list_inputs(replace(source, exclude=("er", "*.parquet")))]
    assert names == ["a b/ü 100%41 #1 [x] (2)+&=?.jsonl", "deep/empty.txt"]


def test_the_store_tells_what_is_in_a_file(server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(server, "tagged")
    put(server, "tagged", "x.txt", b"none")
    s3fs.S3FileSystem().ls("s3://tagged")  # which it keeps
    source = SourceConfig(name="s", path="s3://tagged/x.txt")
    seen = []
    for text in ("one", "two", "one"):
        put(server, "tagged", "x.txt", text.encode())
        seen.append(known_fingerprints(tmp_path, list_inputs(source))["s3://tagged/x.txt"])
    assert seen[0] == seen[2] != seen[1]
    with monkeypatch.context() as patched:
        patched.setattr(fetch, "read_range", None)
        assert fingerprints(tmp_path, list_inputs(source)) == {"s3://tagged/x.txt": seen[2]}


@pytest.mark.parametrize("fault", ["500", "503", "reset", "cut", "short", "stall"])
def test_a_fault_that_passes_leaves_no_trace(
    bucket: str, failing: Proxy, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 0.3}})
    monkeypatch.setattr(remote, "PAUSES_S", (0.0,) * 100)  # so short a timeout passes for a server under load as well
    s3fs.S3FileSystem.clear_instance_cache()
    failing.faults.extend([fault, "", fault, fault])
    assert read("s3://mixed/", unit_bytes=8_000) == read(bucket)
    assert failing.seen.count(fault) == 3


@pytest.mark.parametrize("fault", ["500", "503", "reset", "cut", "short"])
def test_a_fault_that_stays_is_one_line(bucket: str, failing: Proxy, fault: str) -> None:
    failing.always = fault
    for path in ("a b", "deep/er", "deep/x.parquet"):
        with pytest.raises(DataError, match=rf"s3://mixed/{path}.* cannot be read: its store failed 4 times") as caught:
            read(f"s3://mixed/{path}")
        assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, DataMistake), "no mistake of the user's"


def test_a_missing_bucket_and_missing_credentials_are_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataMistake, match=r"sources\.s\.path: s3://nowhere/x does not exist"):
        read("s3://nowhere/x")
    with pytest.raises(DataMistake, match=r"s3://mixed/none/\*\.txt matches no file"):
        read("s3://mixed/none/*.txt")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataMistake, match=r"s3://mixed/x: .*credentials.*; set the store's environment variables"):
        read("s3://mixed/x")


@pytest.mark.parametrize("now", [b'{"text": "b"}\n', b'{"text": "bbb"}\n', None])
def test_an_object_that_changes_after_the_listing_is_named(server: int, now: bytes | None) -> None:
    put(server, "changing")
    put(server, "changing", "x.jsonl", b'{"text": "a"}\n')
    source = SourceConfig(name="s", path="s3://changing/x.jsonl")
    [unit] = cut_units(0, list_inputs(source), 10**9)
    if now is None:
        s3fs.S3FileSystem().rm("changing/x.jsonl")
    else:
        put(server, "changing", "x.jsonl", now)
    with pytest.raises(DataMistake, match=r"s3://changing/x\.jsonl (was changed|is gone) since the inputs were listed"):
        list(read_batches(unit.slices, source))


# Whole builds.


def in_s3(folder: Path) -> CorpusConfig:
    made = config(folder)
    return replace(
        made, sources=tuple(replace(one, path=one.path.replace(str(folder), "s3://corpus")) for one in made.sources)
    )


@pytest.fixture(scope="module")
def inputs(server: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    put(server, "corpus")
    put_folder(server, "corpus", folder)
    return folder


@pytest.fixture(scope="module")
def from_disk(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    return prepare(config(inputs), tmp_path_factory.mktemp("disk"), "demo", workers=0)


def test_a_corpus_from_s3_is_the_corpus_from_a_disk(
    inputs: Path, from_disk: tuple[Path, Manifest], tmp_path: Path
) -> None:
    settings = replace(in_s3(inputs), unit_bytes=4_000)
    folder, manifest = prepare(settings, tmp_path, "demo", workers=0)
    assert manifest.digest == from_disk[1].digest
    assert files_of(folder) == files_of(from_disk[0])
    assert find_corpus(settings, tmp_path, "demo") == folder


def test_a_build_that_its_store_failed_goes_on_later(
    inputs: Path, from_disk: tuple[Path, Manifest], failing: Proxy, tmp_path: Path
) -> None:
    settings = replace(in_s3(inputs), unit_bytes=4_000)
    failing.faults.extend(["", "", "503", ""])
    failing.always = "reset"
    with pytest.raises(DataError, match=r"s3://corpus/.* cannot be read: its store failed"):
        prepare(settings, tmp_path, "demo", workers=0)
    assert find_corpus(settings, tmp_path, "demo") is None
    failing.always = ""
    folder, manifest = prepare(settings, tmp_path, "demo", workers=0)
    assert manifest.digest == from_disk[1].digest
    assert files_of(folder) == files_of(from_disk[0])


@pytest.mark.slow
def test_workers_read_from_s3(inputs: Path, from_disk: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = prepare(replace(in_s3(inputs), unit_bytes=4_000), tmp_path, "demo", workers=2)
    assert manifest.digest == from_disk[1].digest
    assert files_of(folder) == files_of(from_disk[0])


def test_pauses_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", slept.append)
    monkeypatch.setattr(remote, "PAUSES_S", (0.5, 1.0))
    with pytest.raises(DataError, match=r"s3://b/x cannot be read: its store failed 3 times, last with OSError"):
        remote.asked("s3://b/x", lambda: (_ for _ in ()).throw(OSError()))
    assert slept == [0.5, 1.0]
