"""A corpus and a run's pins over two workspaces: stored whole or not at all, fetched whole and verified or not at all."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.signals import StopNotice
from data_prep.errors import DataError
from data_prep.files import write_record
from data_prep.manifest import MANIFEST_NAME, read_manifest, record_of, sealed
from pipeline.config import RunConfig, load_config
from pipeline.durable import bring_corpus, bring_pins, check_shards, lacks_shards, remote_run, upload_corpus
from pipeline.errors import Mistake, StoppedOnNotice
from pipeline.notice import unless_told
from pipeline.remote import Damaged, RemoteFolder
from pipeline.runs import begin, pin, read_state
from pipeline.workspace import RunFolder, Workspace, open_workspace
from tests.disk import record_disk
from tests.stores import Outage, files_at, harm, memory_store, tree
from tests.train.small_runs import config_tree, small_corpus, write_config

CORPUS = "small-0123456789abcdef"


@pytest.fixture
def remote() -> Iterator[RemoteFolder]:
    yield from memory_store()


@pytest.fixture
def begun(remote: RemoteFolder, tmp_path: Path) -> Workspace:
    """A workspace with a corpus and a run that has begun on it."""
    config, workspace = opened(remote, tmp_path / "first")
    manifest = small_corpus(workspace.corpora / CORPUS)
    (workspace.corpora / CORPUS / "statistics.json").write_text("{}")
    pin(config, workspace.run("small"), workspace.corpora / CORPUS, manifest)
    return workspace


def opened(remote: RemoteFolder, folder: Path) -> tuple[RunConfig, Workspace]:
    config_file = write_config(folder.with_suffix(".yaml"), config_tree(folder, steps=4, every_steps=2))
    config = load_config(config_file, [f"remote={remote.url}"])
    return config, open_workspace(config)


def store(remote: RemoteFolder, begun: Workspace) -> RemoteFolder:
    """Everything of the first workspace but checkpoints; gives the corpus's folder."""
    there = remote.at(f"corpora/{CORPUS}")
    upload_corpus(begun.corpora / CORPUS, there)
    for name in ("state.json", "config.yaml"):
        remote.at("runs/small").write(name, (begun.run("small").path / name).read_bytes())
    return there


def test_a_machine_that_has_nothing_gets_the_runs_corpus(
    remote: RemoteFolder, begun: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(remote, begun)
    config, workspace = opened(remote, tmp_path / "second")
    bring_pins(config, workspace)
    with monkeypatch.context() as patch:
        done = record_disk(patch)
        assert bring_corpus(config, workspace) == workspace.corpora / CORPUS
    came = max(at for at, (what, name) in enumerate(done) if what == "rename" and name.endswith(".tar"))
    assert ("sync", "shards") in done[came : done.index(("rename", CORPUS))], "a power cut loses no file of it"
    assert tree(workspace.corpora / CORPUS) == tree(begun.corpora / CORPUS)
    assert read_state(workspace.run("small")) == read_state(begun.run("small"))
    assert begin(config, workspace)[1] == read_manifest(begun.corpora / CORPUS)
    assert tree(workspace.run("small").path).keys() == {"state.json", "config.yaml", ".bring.lock"}


def test_shards_that_training_reads_from_the_remote_are_not_brought_until_it_does_not(
    remote: RemoteFolder, begun: Workspace, tmp_path: Path
) -> None:
    store(remote, begun)
    config, workspace = opened(remote, tmp_path / "second")
    folder, whole = workspace.corpora / CORPUS, tree(begun.corpora / CORPUS)
    bring_pins(config, workspace)
    caching = replace(config, data=replace(config.data, cache_bytes=1_000_000))
    assert bring_corpus(caching, workspace) == folder
    assert lacks_shards(folder)
    assert tree(folder) == {name: data for name, data in whole.items() if not name.endswith(".tar")}
    assert begin(caching, workspace)[1] == read_manifest(begun.corpora / CORPUS)
    assert bring_corpus(config, workspace) == folder
    assert tree(folder) == whole
    assert bring_corpus(caching, workspace) == folder
    assert not lacks_shards(folder)


def test_without_a_remote_nothing_is_brought(begun: Workspace, remote: RemoteFolder, tmp_path: Path) -> None:
    store(remote, begun)
    config, workspace = opened(remote, tmp_path / "second")
    config = replace(config, remote=None)
    bring_pins(config, workspace)
    assert bring_corpus(config, workspace) is None
    assert remote_run(config) is None
    assert tree(workspace.path) == {}


def test_a_run_that_never_began_and_a_corpus_that_was_never_stored_are_not_there(
    remote: RemoteFolder, tmp_path: Path
) -> None:
    config, workspace = opened(remote, tmp_path / "second")
    bring_pins(config, workspace)
    assert read_state(workspace.run("small")) is None


def test_the_manifest_is_stored_last(
    remote: RemoteFolder, begun: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off at any file, there is no corpus yet; and what is there is not sent again."""
    there, corpus = remote.at(f"corpora/{CORPUS}"), begun.corpora / CORPUS
    sent: list[str] = []
    put = RemoteFolder.put

    def until(limit: int) -> None:
        def counted(folder: RemoteFolder, name: str, file: Path) -> None:
            if len(sent) == limit:
                raise DataError("broken off")
            sent.append(name)
            put(folder, name, file)

        monkeypatch.setattr(RemoteFolder, "put", counted)

    names = tree(corpus).keys() - {MANIFEST_NAME}
    for limit in (0, 3, len(names) - 1):
        until(limit)
        with pytest.raises(DataError, match="broken off"):
            upload_corpus(corpus, there)
        assert there.read(MANIFEST_NAME) is None
        config, workspace = opened(remote, tmp_path / f"other{limit}")
        pin(config, workspace.run("small"), corpus, read_manifest(corpus))
        assert bring_corpus(config, workspace) is None
    until(1000)
    upload_corpus(corpus, there)
    assert sorted(sent) == sorted(names), "each once"
    upload_corpus(corpus, there)
    assert len(sent) == len(names)
    assert files_at(there) == tree(corpus)


def test_another_corpus_under_the_same_name_is_not_stored_into_the_first(
    remote: RemoteFolder, begun: Workspace, tmp_path: Path
) -> None:
    """Its shards have the same lengths, and would not be sent."""
    there, other = store(remote, begun), tmp_path / "other"
    manifest = small_corpus(other)
    write_record(other / MANIFEST_NAME, record_of(sealed(replace(manifest, vocab_size=manifest.vocab_size + 1))))
    before = files_at(there)
    with pytest.raises(
        Mistake, match=rf"remote: {there.url} holds another corpus under this name than {other}; remove"
    ):
        upload_corpus(other, there)
    assert files_at(there) == before


@pytest.mark.parametrize("how", ["flip", "tear", "delete"])
@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "shards.npy", "shards/prose-00000.tar", "shards/code.cells.npy", "heldout/prose.parquet"],
)
def test_a_damaged_file_of_a_stored_corpus_is_named_and_the_corpus_does_not_exist_here(
    remote: RemoteFolder, begun: Workspace, tmp_path: Path, name: str, how: str
) -> None:
    there = store(remote, begun)
    config, workspace = opened(remote, tmp_path / "second")
    bring_pins(config, workspace)
    harm(there, name, how)
    with pytest.raises(
        Damaged, match=f"{there.url}/{name} .*; remove the corpus's folder there, and run headrace prep"
    ):
        bring_corpus(config, workspace)
    with pytest.raises(Mistake, match="is gone, and run small trains on it"):
        begin(config, workspace)
    there.remove_all()
    upload_corpus(begun.corpora / CORPUS, there)
    assert bring_corpus(config, workspace) is not None, "once it is mended as the message says"
    assert tree(workspace.corpora / CORPUS) == tree(begun.corpora / CORPUS)


def test_a_notice_while_a_corpus_is_fetched_is_obeyed_between_its_files(
    remote: RemoteFolder, begun: Workspace, tmp_path: Path
) -> None:
    store(remote, begun)
    config, workspace = opened(remote, tmp_path / "second")
    bring_pins(config, workspace)
    told = StopNotice({})
    told.watch(tmp_path)  # it is there
    with pytest.raises(StoppedOnNotice, match="stopped on notice while its corpus was fetched; run it again"):
        bring_corpus(config, workspace, unless_told(told, "its corpus was fetched"))
    assert not (workspace.corpora / CORPUS).exists()
    assert bring_corpus(config, workspace, unless_told(StopNotice({}), "its corpus was fetched")) is not None


def test_another_corpus_under_the_name_of_the_pinned_one_is_not_brought(
    remote: RemoteFolder, begun: Workspace, tmp_path: Path
) -> None:
    """It would be whole, and the run refuse it each time."""
    there = store(remote, begun)
    other = tmp_path / "other" / CORPUS
    small_corpus(other, sequences_per_shard=32)
    there.remove_all()
    upload_corpus(other, there)
    config, workspace = opened(remote, tmp_path / "second")
    bring_pins(config, workspace)
    with pytest.raises(Damaged, match=r"manifest\.json is not that of the corpus that the run began with"):
        bring_corpus(config, workspace)
    assert not (workspace.corpora / CORPUS).exists()


def test_a_corpus_without_its_shards_is_no_corpus_without_a_cache(
    remote: RemoteFolder, begun: Workspace, tmp_path: Path
) -> None:
    store(remote, begun)
    config, workspace = opened(remote, tmp_path / "second")
    bring_pins(config, workspace)
    caching = replace(config, data=replace(config.data, cache_bytes=1_000_000))
    folder = bring_corpus(caching, workspace)
    assert folder is not None
    check_shards(caching, folder)
    check_shards(replace(caching, remote=None, data=config.data), begun.corpora / CORPUS)
    for changed in (config, replace(config, remote=None)):
        with pytest.raises(Mistake, match=r"was fetched without its shards.*give remote and data\.cache_bytes again"):
            check_shards(changed, folder)


def test_a_manifest_that_names_files_outside_brings_none(
    remote: RemoteFolder, begun: Workspace, tmp_path: Path
) -> None:
    """Its own digest is right: whoever can write the store can make it so."""
    there = store(remote, begun)
    manifest = read_manifest(begun.corpora / CORPUS)
    first = replace(manifest.heldout[0], name="../../../../escaped")
    evil = sealed(replace(manifest, heldout=(first,)))
    write_record(tmp_path / "evil.json", record_of(evil))
    there.put(MANIFEST_NAME, tmp_path / "evil.json")
    state = read_state(begun.run("small"))
    assert state is not None
    write_record(tmp_path / "state.json", replace(state, manifest_digest=evil.digest))
    remote.at("runs/small").put("state.json", tmp_path / "state.json")
    config, workspace = opened(remote, tmp_path / "second")
    bring_pins(config, workspace)
    with pytest.raises(Damaged, match="no name that headrace gives"):
        bring_corpus(config, workspace)
    assert not list(tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize("corpus", ["../../../etc", "/etc", ""])
def test_pins_that_lead_outside_are_refused(
    remote: RemoteFolder, begun: Workspace, tmp_path: Path, corpus: str
) -> None:
    state = read_state(begun.run("small"))
    assert state is not None
    write_record(tmp_path / "evil.json", replace(state, corpus=corpus))
    remote.at("runs/small").put("state.json", tmp_path / "evil.json")
    config, workspace = opened(remote, tmp_path / "second")
    with pytest.raises(Damaged, match="no name that headrace gives"):
        bring_pins(config, workspace)
    assert read_state(workspace.run("small")) is None


def test_a_store_that_stays_away_is_no_empty_store(
    remote: RemoteFolder, begun: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(remote, begun)
    config, workspace = opened(remote, tmp_path / "second")
    outage = Outage(monkeypatch)
    outage.broken = True
    with pytest.raises(DataError, match=r"state\.json cannot be read: its store failed"):
        bring_pins(config, workspace)
    outage.broken = False
    bring_pins(config, workspace)
    outage.broken = True
    with pytest.raises(DataError, match=r"manifest\.json cannot be read: its store failed"):
        bring_corpus(config, workspace)
    outage.broken = False
    assert bring_corpus(config, workspace) is not None


def test_what_a_broken_off_build_left_gives_way(remote: RemoteFolder, begun: Workspace, tmp_path: Path) -> None:
    store(remote, begun)
    config, workspace = opened(remote, tmp_path / "second")
    bring_pins(config, workspace)
    (workspace.corpora / CORPUS / "shards").mkdir(parents=True)
    (workspace.corpora / CORPUS / "shards" / "half.tar").touch()
    assert bring_corpus(config, workspace) is not None
    assert tree(workspace.corpora / CORPUS) == tree(begun.corpora / CORPUS)


@pytest.mark.parametrize("torn", ["", '{"run": "small", "conf', "{}"])
def test_torn_pins_are_one_line(torn: str, tmp_path: Path) -> None:
    run = RunFolder(path=tmp_path)
    run.state.write_text(torn)
    with pytest.raises(Mistake, match=r"state.json is not a RunState record: .*; put the one of then back, or") as said:
        read_state(run)
    assert "\n" not in str(said.value)
