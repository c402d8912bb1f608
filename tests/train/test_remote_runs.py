"""Whole runs with a second tier in a real S3 server, behind a proxy that fails as it is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.durable import upload_corpus
from pipeline.monitor.journal import Line, read_journal
from pipeline.remote import RemoteFolder
from pipeline.runs import pin
from pipeline.train.checkpoint import read_checkpoint, verify_checkpoint
from pipeline.train.stored import remote_digest, remote_steps, uploaded_steps
from pipeline.workspace import RunFolder, open_workspace
from tests.labs import wait_for
from tests.s3_server import Proxy, connect, proxy, put, s3_server
from tests.stores import tree
from tests.train.small_runs import config_tree, harm, kill_tree, small_corpus, start_script, write_config
from tests.train.test_kill import curve
from tests.warm import Ranks

STEPS = 48
CORPUS = "small-0123456789abcdef"
REMOTE = RemoteFolder("s3://durable/team/project")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with s3_server() as port, proxy(port) as between:
        put(port, "durable")
        connect(between.port, monkeypatch)
        yield between


def config_of(folder: Path, *, every_steps: int, remote: bool = True) -> Path:
    tree = config_tree(folder, steps=STEPS, every_steps=every_steps)
    monitor = {"wandb": {"mode": "disabled"}}
    return write_config(
        folder.with_suffix(".yaml"), {**tree, "monitor": monitor, **({"remote": REMOTE.url} if remote else {})}
    )


def begin(config_file: Path) -> RunFolder:
    """A workspace with a corpus and a run pinned to it."""
    config = load_config(config_file)
    workspace = open_workspace(config)
    corpus, run = workspace.corpora / CORPUS, workspace.run(config.name)
    pin(config, run, corpus, small_corpus(corpus))
    return run


def train(config_file: Path, ranks: int = 2) -> Ranks:
    return start_script("-m", "pipeline.cli", "train", config_file, ranks=ranks)


def finish(process: Ranks) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def uploads(run: RunFolder) -> list[Line]:
    return [line for line in read_journal(run.metrics) if line["kind"] == "upload"]


@pytest.mark.slow
def test_killed_inside_an_upload_the_run_goes_on_bitwise_on_a_machine_that_has_nothing(
    store: Proxy, tmp_path: Path
) -> None:
    whole, broken, fresh = (tmp_path / name for name in ("whole", "broken", "fresh"))
    unbroken_run = begin(config_of(whole, every_steps=STEPS, remote=False))
    finish(train(whole.with_suffix(".yaml")))

    first = begin(config_of(broken, every_steps=1))
    upload_corpus(broken / "corpora" / CORPUS, REMOTE.at(f"corpora/{CORPUS}"))
    there = REMOTE.at("runs/small")
    store.faults.extend(["", "500", "", "503", "reset", "", "500"])
    # One behind step 0 is stored, however slow the store is: training would run ahead of it, and stands in step 4.
    process = start_script(*harm("hang", 4), "train", broken.with_suffix(".yaml"), ranks=2)
    try:
        wait_for(lambda: 2 in uploaded_steps(first, there), "the upload of step 2")
    finally:
        kill_tree(process)
    store.holds = lambda path: "/state-00001" in path  # the second rank's state, of a later one
    process = train(broken.with_suffix(".yaml"))
    try:
        assert store.held.wait(300), "no upload was there to be killed in"
    finally:
        kill_tree(process)
    store.holds = lambda path: False
    assert store.seen.count("500") + store.seen.count("503") + store.seen.count("reset") == 4
    recorded = [step for step in remote_steps(there) if remote_digest(there, step)]
    torn = [step for step in remote_steps(there) if step not in recorded]
    assert len(torn) == 1
    assert torn[0] > recorded[0] == 2

    config_of(fresh, every_steps=STEPS // 2)
    finish(train(fresh.with_suffix(".yaml")))
    second = RunFolder(path=fresh / "runs/small")
    assert [line["step"] for line in read_journal(second.metrics) if line["kind"] == "resume"] == [recorded[0]]
    assert tree(fresh / "corpora" / CORPUS) == tree(broken / "corpora" / CORPUS)
    final = read_checkpoint(unbroken_run.checkpoint(STEPS))
    assert verify_checkpoint(second.checkpoint(STEPS)).digest == final.digest, "to the last file"
    assert curve(second.path) == curve(unbroken_run.path)
    assert remote_digest(there, STEPS) == final.digest
    assert [line["step"] for line in uploads(second)][-1] == STEPS
    assert all("problem" not in line for line in uploads(second))
    assert all(line["size_bytes"] > 0 and line["upload_s"] > 0 for line in uploads(second))
    assert "secret" not in first.metrics.read_text() + second.metrics.read_text()


@pytest.mark.slow
def test_shards_read_from_the_store_through_a_cache_of_one_train_to_the_same_bits(tmp_path: Path) -> None:
    def config_at(folder: Path, **more: object) -> Path:
        tree = config_tree(folder, steps=8, every_steps=8)
        return write_config(folder.with_suffix(".yaml"), {**tree, "monitor": {"wandb": {"mode": "disabled"}}, **more})

    plain_run = begin(config_at(tmp_path / "plain"))
    finish(train(tmp_path / "plain.yaml"))
    remote = f"file://{tmp_path}/remote"
    cached_run = begin(config_at(tmp_path / "cached", remote=remote))
    corpus = tmp_path / "cached" / "corpora" / CORPUS
    upload_corpus(corpus, RemoteFolder(remote).at(f"corpora/{CORPUS}"))
    largest = 0
    for shard in corpus.glob("shards/*.tar"):
        largest = max(largest, shard.stat().st_size)
        shard.unlink()
    data = {**config_tree(tmp_path, steps=8, every_steps=8)["data"], "cache_folder": str(tmp_path / "cache")}  # type: ignore[dict-item]

    config_at(tmp_path / "cached", remote=remote, data={**data, "cache_bytes": largest - 1})
    process = train(tmp_path / "cached.yaml")
    assert f"data.cache_bytes: {largest - 1} cannot hold one shard of {largest} bytes" in process.communicate()[0]
    assert process.returncode != 0
    assert not cached_run.checkpoints.exists(), "before anything started"

    config_at(tmp_path / "cached", remote=remote, data={**data, "cache_bytes": largest})
    finish(train(tmp_path / "cached.yaml"))
    assert not list(corpus.glob("shards/*.tar"))
    assert 0 < sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar")) <= largest
    assert curve(cached_run.path) == curve(plain_run.path)
    assert read_checkpoint(cached_run.checkpoint(8)).digest == read_checkpoint(plain_run.checkpoint(8)).digest
