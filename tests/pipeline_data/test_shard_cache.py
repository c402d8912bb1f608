"""Shards in a store: the same batches as from a disk, within a budget, whoever shares it and however a fetch ends."""

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import BinaryIO

import fsspec
import pytest
import s3fs

from data_prep import remote
from data_prep.errors import DataError
from data_prep.files import TEMPORARY_PREFIX, sha256_file
from data_prep.manifest import Manifest, ShardRecord
from pipeline.batches import Batches
from pipeline.data import shard_cache
from pipeline.data.corpus_shards import CorpusShards, LocalShards
from pipeline.data.loader import Loader
from pipeline.data.order import order_of
from pipeline.data.shard_cache import ShardCache
from pipeline.errors import Mistake
from tests.s3_server import Proxy, connect, proxy, put, put_folder, s3_server
from tests.train.small_runs import small_corpus
from tests.warm import ROOT

STEPS = 60
CORPUS = tuple[Path, Manifest]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> CORPUS:
    """Two sources, ten shards, all but the two last of one size."""
    folder = tmp_path_factory.mktemp("corpus")
    return folder, small_corpus(folder)


@pytest.fixture
def stored(corpus: CORPUS) -> Iterator[str]:
    store = fsspec.filesystem("memory")
    store.put(str(corpus[0] / "shards"), "/corpora/small/shards", recursive=True)
    yield "memory://corpora/small/shards"
    store.rm("/corpora", recursive=True)


def cache(url: str, folder: Path, corpus: CORPUS, shards: int = 100) -> ShardCache:
    """With room for so many shards."""
    manifest = corpus[1]
    return ShardCache(url, folder, shards * largest(manifest), manifest, order_of(manifest, (0.7, 0.3), seed=1))


def largest(manifest: Manifest) -> int:
    return int(manifest.shards.table["size_bytes"].max())


def digests(shards: CorpusShards, manifest: Manifest, rank: int = 0, world: int = 1) -> list[int]:
    order = order_of(manifest, (0.7, 0.3), seed=1)
    sizes = {"world_size": world, "batches": Batches(size=8), "micro_batch_size": 2}
    with Loader(shards, manifest, order, rank=rank, **sizes) as loader:
        return [zlib.crc32(loader.batch(step).tobytes()) for step in range(STEPS)]


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.tar"))


def wait_for_thread(one: ShardCache) -> None:
    """Until what is to be fetched ahead is there."""
    one._next.put(None)
    one._thread.join(60)


def names(folder: Path, manifest: Manifest) -> set[str]:
    """The shards in a cache folder, and what else looks like one."""
    known = {shard.sha256: shard.name for shard in manifest.shards}
    return {known.get(path.stem, path.name) for path in folder.glob("*.tar")}


@pytest.mark.parametrize("shards", [1, 2, 5, 100])
def test_any_budget_gives_the_batches_of_a_disk_and_is_kept(
    corpus: CORPUS, stored: str, tmp_path: Path, shards: int
) -> None:
    class Watched(ShardCache):
        @contextmanager
        def _deciding(self) -> Iterator[None]:
            """Whatever is decided, the budget holds before and after."""
            with super()._deciding():
                assert bytes_in(tmp_path) <= shards * largest(corpus[1])
                yield
                assert bytes_in(tmp_path) <= shards * largest(corpus[1])

    order = order_of(corpus[1], (0.7, 0.3), seed=1)
    watched = Watched(stored, tmp_path, shards * largest(corpus[1]), corpus[1], order)
    assert digests(watched, corpus[1]) == digests(LocalShards(*corpus), corpus[1])
    wait_for_thread(watched)
    assert bytes_in(tmp_path) <= shards * largest(corpus[1])
    assert not any(name.startswith(TEMPORARY_PREFIX) for name in names(tmp_path, corpus[1]))


def test_a_budget_of_less_than_a_shard_is_refused(corpus: CORPUS, stored: str, tmp_path: Path) -> None:
    size = largest(corpus[1])
    order = order_of(corpus[1], (0.7, 0.3), seed=1)
    with pytest.raises(
        Mistake, match=rf"data.cache_bytes: {size - 1} cannot hold one shard of {size} bytes; {4 * size} hold"
    ):
        ShardCache(stored, tmp_path, size - 1, corpus[1], order)


def test_what_comes_next_is_there_before_it_is_asked_for(corpus: CORPUS, stored: str, tmp_path: Path) -> None:
    order = order_of(corpus[1], (0.7, 0.3), seed=1)
    one = cache(stored, tmp_path, corpus, shards=6)  # three for each of two sources
    one._fetch_from(5_000)
    expected = {corpus[1].source_shards(("prose", "code")[at])[shard].name for at, shard in order.shards_from(5_000, 3)}
    assert names(tmp_path, corpus[1]) == expected


def test_a_fault_of_any_kind_does_not_end_the_fetching_ahead(
    corpus: CORPUS, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, faults = ShardCache._hold, [RuntimeError("of the store's library")]

    def troubled(one: ShardCache, shard: ShardRecord, **how: bool) -> BinaryIO | None:
        if faults:
            raise faults.pop()
        return held(one, shard, **how)

    monkeypatch.setattr(ShardCache, "_hold", troubled)
    one = cache(stored, tmp_path, corpus, shards=6)
    one._fetch_from(5_000)
    order = order_of(corpus[1], (0.7, 0.3), seed=1)
    assert len(names(tmp_path, corpus[1])) == len(list(order.shards_from(5_000, 3))) - 1


def test_a_thread_hears_what_comes_next(
    corpus: CORPUS, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: SimpleQueue[int] = SimpleQueue()
    monkeypatch.setattr(ShardCache, "_fetch_from", lambda _, position: heard.put(position))
    one, small = cache(stored, tmp_path, corpus, shards=6), cache(stored, tmp_path, corpus, shards=3)
    small.prepare(1)  # there is no room for the next shard of each source
    one.prepare(5_000)
    assert heard.get(timeout=60) == 5_000
    one.close()
    small.close()
    wait_for_thread(small)
    assert heard.empty()


def test_the_shards_used_longest_ago_go_first(corpus: CORPUS, stored: str, tmp_path: Path) -> None:
    a, b, c, d = corpus[1].shards[:4]
    one = cache(stored, tmp_path, corpus, shards=3)
    for shard in (a, b, c, a, d):
        with one.opened(shard) as tokens:
            assert len(tokens) == shard.num_sequences
    assert names(tmp_path, corpus[1]) == {a.name, c.name, d.name}


def test_a_shard_in_use_is_never_evicted(corpus: CORPUS, stored: str, tmp_path: Path) -> None:
    a, b = corpus[1].shards[:2]
    mine, other = (cache(stored, tmp_path, corpus, shards=1) for _ in range(2))
    for _ in ("fetched for it", "there already"):
        with mine.opened(a):
            assert other._hold(b, wait=False) is None
            assert names(tmp_path, corpus[1]) == {a.name}
    with other.opened(b):
        assert names(tmp_path, corpus[1]) == {b.name}


def test_who_comes_second_waits_for_the_first(corpus: CORPUS, stored: str, tmp_path: Path) -> None:
    """The first is let go when the second has found that it must wait."""
    shard = corpus[1].shards[0]
    first, second = (cache(stored, tmp_path, corpus) for _ in range(2))
    asked: list[str] = []
    begun, waits = Event(), Event()

    class Waits:
        def wait(self, _: float) -> bool:
            waits.set()
            return False

        def is_set(self) -> bool:
            return False

    download = first._download

    def slow(*arguments: object) -> None:
        asked.append("first")
        begun.set()
        assert waits.wait(60)
        download(*arguments)  # type: ignore[arg-type]

    first._download = slow  # type: ignore[method-assign, assignment]
    second._download = lambda *_: asked.append("second")  # type: ignore[method-assign, assignment]
    second._closed = Waits()  # type: ignore[assignment]
    with ThreadPoolExecutor() as pool:
        held = pool.submit(first._hold, shard)
        assert begun.wait(60)
        also = pool.submit(second._hold, shard)
        for file in (held.result(60), also.result(60)):
            assert file is not None
            file.close()
    assert asked == ["first"]


def test_what_a_killed_process_left_is_fetched_anew(corpus: CORPUS, stored: str, tmp_path: Path) -> None:
    a, b = corpus[1].shards[:2]
    torn = {shard.sha256: tmp_path / f"{TEMPORARY_PREFIX}{shard.sha256}.tar" for shard in (a, b)}
    for path in torn.values():
        path.write_bytes(b"x" * (a.size_bytes + 7))
    one = cache(stored, tmp_path, corpus, shards=2)
    with one.opened(a):
        assert sha256_file(tmp_path / f"{a.sha256}.tar") == a.sha256
    assert names(tmp_path, corpus[1]) == {a.name}, "the other one made room: it is nobody's"


@pytest.mark.parametrize("size", [0, 700])
def test_a_file_of_another_length_than_it_had_is_fetched_anew(
    corpus: CORPUS, stored: str, tmp_path: Path, size: int
) -> None:
    """After a crash of the machine, or by whoever cleans its disk."""
    shard, one = corpus[1].shards[0], cache(stored, tmp_path, corpus)
    path = tmp_path / f"{shard.sha256}.tar"
    for _ in range(2):
        with one.opened(shard) as tokens:
            assert len(tokens) == shard.num_sequences
        assert sha256_file(path) == shard.sha256
        os.truncate(path, size)


def test_a_folder_that_cannot_be_used_is_one_line(corpus: CORPUS, stored: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "taken/lock").mkdir(parents=True)
    for folder in (tmp_path / "file/below", tmp_path / "file", tmp_path / "taken", Path("/proc/headrace")):
        with pytest.raises(Mistake, match=rf"data.cache_folder: {folder} cannot be written to \(.*\); choose"):
            cache(stored, folder, corpus)


def test_a_file_of_somebody_else_is_left_alone(corpus: CORPUS, stored: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tar").write_bytes(b"x" * 10 * largest(corpus[1]))
    with cache(stored, tmp_path, corpus, shards=1).opened(corpus[1].shards[0]):
        assert (tmp_path / "thesis.tar").exists()


def test_other_bytes_than_recorded_are_named_and_not_kept(corpus: CORPUS, stored: str, tmp_path: Path) -> None:
    shard = corpus[1].shards[0]
    path = f"/corpora/small/shards/{shard.name}"
    store = fsspec.filesystem("memory")
    data = store.cat_file(path)
    store.pipe_file(path, data[:600] + b"\x01" + data[601:])
    with (
        pytest.raises(DataError, match=rf"{stored}/{shard.name}: sha256 is \w+…, not {shard.sha256[:16]}…"),
        cache(stored, tmp_path, corpus).opened(shard),
    ):
        pass
    assert names(tmp_path, corpus[1]) == set()
    store.rm(path)
    with (
        pytest.raises(DataError, match=rf"{shard.name}.*cannot be read.*remove the corpus's folder there"),
        cache(stored, tmp_path, corpus).opened(shard),
    ):
        pass


def test_a_full_disk_is_one_line(corpus: CORPUS, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with (
        pytest.raises(DataError, match=r"data.cache_bytes: .* has no room for \d+ bytes more .*No space left"),
        cache(stored, tmp_path, corpus).opened(corpus[1].shards[0]),
    ):
        pass
    assert names(tmp_path, corpus[1]) == set()


# A real server, that fails


@pytest.fixture(scope="module")
def server(corpus: CORPUS) -> Iterator[int]:
    with s3_server() as port:
        put(port, "corpora")
        put_folder(port, "corpora", corpus[0])
        yield port


@pytest.fixture
def failing(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(server) as between:
        connect(between.port, monkeypatch)
        monkeypatch.setattr(remote, "PAUSES_S", (0.0, 0.0, 0.0))
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
        monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 10}})
        s3fs.S3FileSystem.clear_instance_cache()
        yield between
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("fault", ["500", "reset", "cut", "short", "stall"])
def test_a_fault_that_passes_leaves_no_trace(
    corpus: CORPUS, failing: Proxy, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_cache, "RANGE_BYTES", 3_000)
    if fault == "stall":
        monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 0.5}})
    failing.faults.extend([fault, "", fault, fault])
    shard = corpus[1].shards[0]
    with cache("s3://corpora/shards", tmp_path, corpus).opened(shard):
        assert sha256_file(tmp_path / f"{shard.sha256}.tar") == shard.sha256
    assert failing.seen.count(fault) == 3


def test_a_fault_that_stays_is_one_line(corpus: CORPUS, failing: Proxy, tmp_path: Path) -> None:
    failing.always = "503"
    with (
        pytest.raises(DataError, match=r"s3://corpora/shards/prose-00000.tar cannot be read: its store failed 4 times"),
        cache("s3://corpora/shards", tmp_path, corpus).opened(corpus[1].shards[0]),
    ):
        pass


RANK = """
import sys
from pathlib import Path
from data_prep.manifest import read_manifest
from tests.pipeline_data.test_shard_cache import cache, digests
folder, cached, shards, rank = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
manifest = read_manifest(folder)
print(digests(cache("s3://corpora/shards", cached, (folder, manifest), shards), manifest, rank, world=2))
"""


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 100])
def test_two_processes_share_a_folder(corpus: CORPUS, failing: Proxy, tmp_path: Path, shards: int) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(corpus[0]), str(tmp_path), str(shards), str(rank)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(2)
    ]
    for rank, process in enumerate(ranks):
        said = json.loads(process.communicate(timeout=120)[0])
        assert said == digests(LocalShards(*corpus), corpus[1], rank, world=2)
    assert bytes_in(tmp_path) <= shards * largest(corpus[1])
    if shards == 100:
        assert len(failing.seen) == len(names(tmp_path, corpus[1])), "one of them fetched each shard, once"


@pytest.mark.parametrize("obstacle", ["open", "link", "file"])
def test_a_default_folder_that_others_may_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    monkeypatch.setattr(shard_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = shard_cache.default_folder()
    assert folder == shard_cache.default_folder()
    folder.chmod(0o777)
    if obstacle != "open":
        folder.rmdir()
        folder.symlink_to(tmp_path) if obstacle == "link" else folder.write_bytes(b"")
    with pytest.raises(Mistake, match=r"data\.cache_folder"):
        shard_cache.default_folder()
