"""Inputs in Google Cloud Storage, from a real server: the same corpus as from a disk, and faults as S3's are met."""

import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gcsfs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import remote
from data_prep.build import find_corpus, prepare
from data_prep.config import SourceConfig
from data_prep.documents import read_batches
from data_prep.errors import DataError, DataMistake
from data_prep.fingerprints import known_fingerprints
from data_prep.inputs import cut_units, list_inputs
from tests.data_prep.corpora import config, files_of, write_inputs
from tests.data_prep.test_documents import lines, read
from tests.gcs_server import connect, gcs_server, is_object, put, put_folder
from tests.s3_server import Proxy, proxy

RECORDS = [{"id": f"d{i}", "text": f"größer {i} " * (i % 7)} for i in range(120)]


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with gcs_server() as port:
        yield port


async def at_once(seconds: float) -> None:
    pass


@pytest.fixture(autouse=True)
def client(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The user's environment, and no waits."""
    connect(server, monkeypatch)
    monkeypatch.setattr(remote, "PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=at_once))
    yield
    gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture
def failing(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(server) as between:
        between.is_object = is_object
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
    put(server, "mixed")
    put_folder(server, "mixed", folder)
    return str(folder)


@pytest.mark.parametrize("scheme", ["gs", "gcs"])
@pytest.mark.parametrize(
    "path", ["", "/", "/deep", "/deep/*.parquet", "/**/*.jsonl*", "/a b/ü 100%41 #1 [x] (2)+&=?.jsonl"]
)
def test_the_same_documents_as_from_a_disk(bucket: str, scheme: str, path: str) -> None:
    expected = read(bucket + path)
    assert read(f"{scheme}://mixed{path}") == expected
    assert read(f"{scheme}://mixed{path}", unit_bytes=1_000) == expected
    assert len(expected) >= 120


def test_the_store_tells_what_is_in_a_file(server: int, tmp_path: Path) -> None:
    put(server, "tagged")
    source = SourceConfig(name="s", path="gs://tagged/x.txt")
    seen = []
    for text in ("one", "two"):
        put(server, "tagged", "x.txt", text.encode())
        seen.append(known_fingerprints(tmp_path, list_inputs(source))["gs://tagged/x.txt"])
    assert seen[0] != seen[1]


@pytest.mark.parametrize("fault", ["500", "503", "reset", "cut", "short"])
def test_a_fault_that_passes_leaves_no_trace(bucket: str, failing: Proxy, fault: str) -> None:
    failing.faults.extend([fault, "", fault, fault])
    assert read("gs://mixed/", unit_bytes=8_000) == read(bucket)
    assert failing.seen.count(fault) == 3


@pytest.mark.parametrize("fault", ["500", "503", "reset", "cut", "short"])
def test_a_fault_that_stays_is_one_line(bucket: str, failing: Proxy, fault: str) -> None:
    failing.always = fault
    with pytest.raises(DataError, match=r"gs://mixed/a b.* cannot be read: its store failed 4 times") as caught:
        read("gs://mixed/a b")
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, DataMistake), "no mistake of the user's"


@pytest.mark.parametrize("status", ["401", "403"])
def test_what_the_store_refuses_is_a_mistake(bucket: str, failing: Proxy, status: str) -> None:
    failing.always = status
    with pytest.raises(DataMistake, match=r"gs://mixed/a b.* cannot be read: .*; check its permissions") as caught:
        read("gs://mixed/a b")
    assert "\n" not in str(caught.value)


def test_a_missing_bucket_or_object_is_a_mistake(bucket: str) -> None:
    with pytest.raises(DataMistake, match=r"sources\.s\.path: gs://nowhere/x does not exist"):
        read("gs://nowhere/x")
    with pytest.raises(DataMistake, match=r"gs://mixed/none/\*\.txt matches no file"):
        read("gs://mixed/none/*.txt")


@pytest.mark.parametrize("now", [b'{"text": "b"}\n', b'{"text": "bbb"}\n', None])
def test_an_object_that_changes_after_the_listing_is_named(server: int, now: bytes | None) -> None:
    put(server, "changing")
    put(server, "changing", "x.jsonl", b'{"text": "a"}\n')
    source = SourceConfig(name="s", path="gs://changing/x.jsonl")
    [unit] = cut_units(0, list_inputs(source), 10**9)
    if now is None:
        gcsfs.GCSFileSystem().rm("changing/x.jsonl")
    else:
        put(server, "changing", "x.jsonl", now)
    with pytest.raises(DataMistake, match=r"gs://changing/x\.jsonl (was changed|is gone) since the inputs were listed"):
        list(read_batches(unit.slices, source))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_corpus_from_gcs_is_the_corpus_from_a_disk(server: int, tmp_path: Path, workers: int) -> None:
    write_inputs(tmp_path / "in")
    put(server, "corpus")
    put_folder(server, "corpus", tmp_path / "in")
    on_disk = config(tmp_path / "in")
    sources: Any = tuple(
        replace(one, path=one.path.replace(f"{tmp_path}/in", "gs://corpus")) for one in on_disk.sources
    )
    in_gcs = replace(on_disk, sources=sources, unit_bytes=4_000)
    expected, _ = prepare(on_disk, tmp_path / "disk", "demo", workers=0)
    folder, _ = prepare(in_gcs, tmp_path / "gcs", "demo", workers=workers)
    assert files_of(folder) == files_of(expected)
    assert find_corpus(in_gcs, tmp_path / "gcs", "demo") == folder
