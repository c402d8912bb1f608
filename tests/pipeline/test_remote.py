"""A folder in a store: what is put comes back, what is damaged is named, and no name leads out of it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from data_prep import remote as data_remote
from data_prep.errors import DataError
from pipeline.errors import Mistake
from pipeline.remote import Damaged, RemoteFolder, plain_path
from tests.stores import Outage, files_at, harm, memory_store, tree

SHA256 = hashlib.sha256(b"stone").hexdigest()


@pytest.fixture(params=["memory", "file", "path"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RemoteFolder]:
    if request.param == "memory":
        yield from memory_store()
    else:
        yield RemoteFolder(f"{'file://' if request.param == 'file' else ''}{tmp_path}/remote")


@pytest.fixture
def memory() -> Iterator[RemoteFolder]:
    yield from memory_store()


def test_what_is_put_is_listed_read_fetched_and_removed(remote: RemoteFolder, tmp_path: Path) -> None:
    assert remote.names() == []
    assert remote.read("a/b/grain.bin") is None
    (tmp_path / "grain.bin").write_bytes(b"stone")
    remote.put("a/b/grain.bin", tmp_path / "grain.bin")
    remote.write("a/flour.json", b"{}")
    assert remote.names() == ["a"]
    assert remote.at("a").names() == ["b", "flour.json"]
    assert (remote.read("a/b/grain.bin"), remote.size_bytes("a/b/grain.bin")) == (b"stone", 5)
    remote.at("a/b").fetch("grain.bin", tmp_path / "here/grain.bin", SHA256, 5)
    assert tree(tmp_path / "here") == {"grain.bin": b"stone"}
    remote.write("a/flour.json", b"[]")
    assert remote.read("a/flour.json") == b"[]", "in place of what was there"
    remote.remove("a/flour.json")
    remote.remove("a/flour.json")
    assert remote.at("a").names() == ["b"]
    remote.at("a").remove_all()
    remote.at("a").remove_all()
    assert remote.read("a/b/grain.bin") is None


def test_what_is_here_already_is_not_asked_for(memory: RemoteFolder, tmp_path: Path) -> None:
    (tmp_path / "grain").write_bytes(b"stone")
    memory.fetch("grain", tmp_path / "grain", SHA256)  # the store has none


@pytest.mark.parametrize(
    ("how", "says"), [("flip", "does not match its recorded sha256"), ("tear", "has 2 bytes"), ("delete", "is missing")]
)
def test_what_is_damaged_there_is_named_and_never_here(
    memory: RemoteFolder, tmp_path: Path, how: str, says: str
) -> None:
    memory.write("a/grain", b"stone")
    harm(memory, "a/grain", how)
    with pytest.raises(Damaged, match=rf"{memory.url}/a/grain {says}"):
        memory.at("a").fetch("grain", tmp_path / "grain", SHA256, 5)
    assert tree(tmp_path) == {}


def test_a_store_that_fails_is_asked_again_and_then_given_up_in_one_line(
    memory: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    (tmp_path / "grain").write_bytes(b"stone")
    outage.broken = True
    with pytest.raises(DataError, match=rf"{memory.url}/a cannot be written: its store failed 2 times.*503"):
        memory.put("a", tmp_path / "grain")
    with pytest.raises(DataError, match=rf"{memory.url}/a cannot be read: its store failed 2 times"):
        memory.read("a")
    outage.broken = False
    assert files_at(memory) == {}


def test_what_no_waiting_mends_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "a_file").write_bytes(b"")
    with pytest.raises(Mistake, match=r"remote: .*a_file/x/y cannot be written"):
        RemoteFolder(f"file://{tmp_path}/a_file/x").write("y", b"")


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's pins and its journal are stored again with each checkpoint."""
    remote = RemoteFolder(f"file://{tmp_path}/remote")
    (tmp_path / "grain").write_bytes(b"new stone")
    for name in ("state.json", "grain"):
        remote.write(name, b"stone")

    def half(_: LocalFileSystem, source: str, to: str | bytes, **__: object) -> None:
        path, data = (source, to) if isinstance(to, bytes) else (to, b"new stone")
        Path(path).write_bytes(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(data_remote, "PAUSES_S", ())
    for method in ("pipe_file", "put_file"):
        monkeypatch.setattr(LocalFileSystem, method, half)
    with pytest.raises(DataError, match="No space left"):
        remote.write("state.json", b"new stone")
    with pytest.raises(DataError, match="No space left"):
        remote.put("grain", tmp_path / "grain")
    assert tree(tmp_path / "remote") == {"state.json": b"stone", "grain": b"stone"}


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a//b", "", ".hidden", "a\\..\\b", "a\x00", "ü"])
def test_no_name_leads_out(memory: RemoteFolder, tmp_path: Path, name: str) -> None:
    for use in (
        lambda: memory.at(name),
        lambda: memory.read(name),
        lambda: memory.fetch(name, tmp_path / "x", SHA256),
        lambda: memory.write(name, b""),
        lambda: memory.remove(name),
    ):
        with pytest.raises(Damaged, match="no name that headrace gives"):
            use()


@given(st.text(alphabet="ab./\\-_ 1", max_size=12))
def test_a_plain_path_stays_below_its_folder(name: str) -> None:
    try:
        path = plain_path(name)
    except Damaged:
        return
    assert (Path("/folder") / path).resolve().is_relative_to("/folder")
    assert (Path("/folder") / path).resolve() != Path("/folder")
