"""The doctor at the second tier: a store that is there, one that refuses, one that forgets, and folders for shards."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep import remote as data_remote
from data_prep.files import write_record
from pipeline.config import RunConfig, load_config
from pipeline.doctor import checks
from pipeline.doctor import remote as at_remote
from pipeline.doctor.checks import CacheFolder, Visit
from pipeline.doctor.remote import cache_folder, probe_bytes, visit
from pipeline.remote import RemoteFolder
from pipeline.runs import RunState
from pipeline.workspace import Workspace
from tests.e2e.whole_runs import headrace
from tests.s3_server import connect, put, s3_server
from tests.stores import Outage, files_at, memory_store
from tests.train.small_runs import config_tree, small_corpus, write_config

FINE = Visit(up_bytes_per_s=1e8, down_bytes_per_s=2e8)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteFolder]:
    monkeypatch.setattr(at_remote, "LARGEST_BYTES", 10_000_000)
    yield from memory_store()


def alone(own: Any) -> list[Any]:
    return [own]


def test_a_store_that_works_is_left_as_it_was(store: RemoteFolder, tmp_path: Path) -> None:
    store.write("other", b"stays")
    found = visit(store.at("doctor"), tmp_path, alone)
    assert (found.problem, found.left) == (None, None)
    assert found.up_bytes_per_s is not None
    assert found.up_bytes_per_s > 0
    assert files_at(store) == {"other": b"stays"}
    assert not list(tmp_path.iterdir())
    assert checks.check_remote(store.url, [found]).result == "ok"


def test_what_a_store_refuses_is_told_in_its_words(
    store: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    outage.broken = True
    found = visit(store.at("doctor"), tmp_path, alone)
    assert found.problem is not None
    check = checks.check_remote(store.url, [found])
    assert check.result == "fail"
    assert check.figure.startswith(f"rank 0: {store.url}/doctor/record cannot be written: its store failed 2 times")
    assert check.advice.startswith("run again when it is well")


def test_a_store_that_lists_less_than_it_has_is_red(
    store: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = RemoteFolder.names
    monkeypatch.setattr(RemoteFolder, "names", lambda self: [name for name in names(self) if name != "large"])
    found = visit(store.at("doctor"), tmp_path, alone)
    assert "lists record, small behind record, small and large were written" in (found.problem or "")


def test_a_node_that_reads_something_else_is_named(store: RemoteFolder, tmp_path: Path) -> None:
    """Rank 1's store is another one: a file:// path that its node does not share."""
    there = store.at("doctor")
    other = store.at("elsewhere")
    other.write("record", b"first")
    meetings = iter([[("sha256", None), ("", None)], [None, None]])
    found = visit(other, tmp_path, lambda own: next(meetings), is_main=False)
    assert found.problem is not None
    assert "elsewhere/record reads otherwise on " in found.problem
    assert files_at(store) == {"elsewhere/record": b"first"}, "rank 0 removes"
    check = checks.check_remote(there.url, [FINE, found])
    assert (check.result, check.figure[:8]) == ("fail", "rank 1: ")
    assert check.advice == "give a place that is the same on all nodes, with no cache in between"


def test_where_rank_0_could_not_write_nobody_reads_and_all_meet(store: RemoteFolder, tmp_path: Path) -> None:
    meetings = iter([[("", "no"), ("", None)], [None, None]])
    assert visit(store.at("doctor"), tmp_path, lambda own: next(meetings), is_main=False) == Visit()
    assert next(meetings, None) is None


def test_what_cannot_be_removed_is_only_to_be_looked_at() -> None:
    check = checks.check_remote("s3://b", [replace(FINE, left="s3://b/doctor cannot be removed: no; check it")])
    assert (check.result, check.figure, check.advice) == ("warn", "s3://b/doctor cannot be removed: no", "check it")


def test_speed_is_held_against_the_time_between_checkpoints_and_never_fails() -> None:
    def found(between_s: float | None) -> checks.Check:
        return checks.check_remote_speed(FINE, 1_000_000_000, between_s)

    assert [found(one).result for one in (None, 10.0, 9.0, 0.1)] == ["ok", "ok", "warn", "warn"]
    assert found(9.0).values["upload_s"] == 10.0
    assert "100 MB/s up, 200 MB/s down; a checkpoint 10.0 s and 5.00 s" in found(None).figure
    assert checks.check_remote_speed(FINE, None, None).figure == "100 MB/s up, 200 MB/s down"


def test_the_larger_file_takes_seconds_at_the_pace_of_the_small_one() -> None:
    assert probe_bytes(8 << 20, 1.0) == 32 << 20
    assert probe_bytes(8 << 20, 60.0) == 8 << 20, "of a slow store not less than before"
    assert probe_bytes(8 << 20, 0.001) == 256 << 20


# --- the folder for shards --------------------------------------------------------------------------------------------


def config_of(tmp_path: Path, **data: Any) -> RunConfig:
    tree: Any = config_tree(tmp_path / "ws", steps=4, every_steps=2)
    tree["data"] |= data
    return load_config(write_config(tmp_path / "run.yaml", {**tree, "remote": f"file://{tmp_path}/remote"}))


def looked_at(config: RunConfig) -> CacheFolder | None:
    return cache_folder(config, Workspace(path=Path(config.workspace)))


def test_a_cache_folder_is_made_and_its_own_shards_count_as_room(tmp_path: Path) -> None:
    config = config_of(tmp_path, cache_bytes=1000, cache_folder=str(tmp_path / "new/cache"))
    found = looked_at(config)
    assert found is not None
    assert (found.folder, found.problem) == (str(tmp_path / "new/cache"), None)
    (tmp_path / "new/cache" / f"{'a' * 64}.tar").write_bytes(b"")
    os.truncate(tmp_path / "new/cache" / f"{'a' * 64}.tar", 1 << 42)  # a hole, which takes no room
    more = looked_at(config)
    assert more is not None
    assert more.room_bytes > found.room_bytes + (1 << 41)
    assert looked_at(config_of(tmp_path)) is None, "no cache is asked for"


def test_a_cache_folder_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = looked_at(config_of(tmp_path, cache_bytes=1000, cache_folder=str(tmp_path / "file/cache")))
    assert found is not None
    check = checks.check_cache([found], 1000)
    assert check.result == "fail"
    assert check.figure.startswith(f"rank 0: data.cache_folder: {tmp_path}/file/cache cannot be written to")
    assert check.advice == "choose a folder of your own on a disk of each machine"


def pinned(config: RunConfig, corpus: str) -> None:
    run = Workspace(path=Path(config.workspace)).run(config.name)
    state = RunState(run=config.name, config_digest="", weight_shaping={}, corpus=corpus, manifest_digest="")
    write_record(run.state, state)


def test_a_budget_below_one_shard_of_the_pinned_corpus_is_red_and_local_shards_need_none(tmp_path: Path) -> None:
    config = config_of(tmp_path, cache_bytes=1000, cache_folder=str(tmp_path / "cache"))
    corpus = tmp_path / "ws/corpora/small"
    small_corpus(corpus)
    pinned(config, "small")
    assert looked_at(config) is None
    for shard in (corpus / "shards").iterdir():
        shard.unlink()
    found = looked_at(config)
    assert found is not None
    assert (found.problem or "").startswith("data.cache_bytes: 1000 cannot hold one shard of ")


def test_a_machine_with_less_room_than_the_budget_is_named() -> None:
    roomy = CacheFolder(host="a", folder="/nvme", room_bytes=2000, problem=None)
    tight = CacheFolder(host="b", folder="/nvme", room_bytes=999, problem=None)
    assert checks.check_cache([roomy], 2000).result == "ok"
    check = checks.check_cache([roomy, roomy, tight, tight], 1000)
    assert (check.result, check.values["ranks"], check.values["hosts"]) == ("fail", [2, 3], ["b"])
    assert check.figure == "999 B free for shards in /nvme on b"
    assert check.advice == "lower data.cache_bytes, or choose a data.cache_folder with more room on b"


# --- a real store -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[int]:
    with s3_server() as port:
        yield port


def test_s3_that_works_that_has_no_bucket_and_that_is_not_there(
    s3: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(s3, monkeypatch)
    monkeypatch.setattr(at_remote, "LARGEST_BYTES", 10_000_000)
    put(s3, "works")
    there = RemoteFolder("s3://works/runs/small/doctor")
    assert visit(there, tmp_path, alone).problem is None
    assert there.names() == []
    none = checks.check_remote("s3://none", [visit(RemoteFolder("s3://none/doctor"), tmp_path, alone)])
    assert (none.result, none.advice) == ("fail", "make its bucket first"), none
    monkeypatch.setattr(data_remote, "PAUSES_S", ())
    connect(1, monkeypatch)  # where nobody listens
    gone = checks.check_remote("s3://works", [visit(there, tmp_path, alone)])
    assert gone.result == "fail", gone
    assert "Could not connect" in gone.figure


@pytest.mark.slow
def test_the_doctor_finds_remote_and_cache_folder_in_order_and_not(
    s3: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(s3, monkeypatch)
    put(s3, "durable")
    tree: Any = config_tree(tmp_path / "ws", steps=100, every_steps=50)
    path = write_config(tmp_path / "run.yaml", {**tree, "remote": "s3://durable/team"})
    words = ("data.cache_bytes=1000000", f"data.cache_folder={tmp_path}/cache")
    found = {check["name"]: check for check in headrace("doctor", path, *words)["checks"]}
    assert found["remote"]["result"] == "ok", found["remote"]
    assert found["remote speed"]["values"]["up_bytes_per_s"] > 0
    assert found["shard cache"]["result"] == "ok", found["shard cache"]
    assert RemoteFolder("s3://durable/team/runs/small/doctor").names() == []
    (tmp_path / "file").touch()
    wrong = ("remote=s3://nobody", words[0], f"data.cache_folder={tmp_path}/file/x", "cluster.processes_per_node=1")
    record = headrace("doctor", path, *wrong, code=3)
    assert record["error"] == "doctor of small: failed: shard cache, remote"
