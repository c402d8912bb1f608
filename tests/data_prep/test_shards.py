"""The shard format: what we write is what `tarfile` would, and what stock readers and our own view read back."""

import gc
import io
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import shards
from data_prep.manifest import Manifest, read_manifest
from data_prep.small import write_small_corpus
from data_prep.verify import verify

END = 0


def written(tokens: list[int], length: int, dtype: str, cuts: list[int]) -> bytes:
    """A shard of the tokens, given to the writer in pieces."""
    buffer = io.BytesIO()
    writer = shards.ShardWriter(buffer, length, END, dtype)
    bounds = [0, *sorted(cut % (len(tokens) + 1) for cut in cuts), len(tokens)]
    for first, end in pairwise(bounds):
        writer.write(np.array(tokens[first:end], dtype=dtype))
    writer.finish()
    return buffer.getvalue()


def by_tarfile(tokens: list[int], length: int, dtype: str) -> bytes:
    """The same by Python's own writer, one member after another."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for row, first in enumerate(range(0, len(tokens), length)):
            sequence = (tokens[first : first + length] + [END] * length)[:length]
            payload = np.array(sequence, dtype=np.dtype(dtype).newbyteorder("<")).tobytes()
            member = tarfile.TarInfo(f"{row:010d}.bin")
            member.size, member.mode, member.mtime = len(payload), 0o644, 0
            archive.addfile(member, io.BytesIO(payload))
        size = archive.offset
    return buffer.getvalue()[: size + 1024]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 65_535), min_size=1, max_size=700),
    st.integers(1, 300),
    st.sampled_from(["uint16", "uint32"]),
    st.lists(st.integers(0, 10**6), max_size=4),
)
def test_a_shard_has_the_bytes_that_tarfile_writes(tokens: list[int], length: int, dtype: str, cuts: list[int]) -> None:
    assert written(tokens, length, dtype, cuts) == by_tarfile(tokens, length, dtype)


def test_headers_far_into_a_shard() -> None:
    for first in (9, 99_998, 2_000_000_000):
        writer = shards.ShardWriter(buffer := io.BytesIO(), 2048, END, "uint16")
        writer.num_sequences = first
        writer.write(np.ones(5 * 2048, dtype=np.uint16))
        writer.finish()
        for place in range(5):
            member = tarfile.TarInfo(f"{first + place:010d}.bin")
            member.size, member.mode = 4096, 0o644
            stride = 512 + 4096
            assert buffer.getvalue()[place * stride :][:512] == member.tobuf(tarfile.USTAR_FORMAT)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = written(list(range(1, 5_000)), 100, "uint16", [])
    monkeypatch.setattr(shards, "BLOCK_BYTES", 999)
    assert written(list(range(1, 5_000)), 100, "uint16", [7, 1_000, 1_001]) == whole


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("corpus")
    documents = [(f"d{i}", f"document {i} says <|endoftext|> " * (i % 9)) for i in range(150)]
    write_small_corpus(
        folder, {"a": documents, "b": [("one", "text")]}, sequence_length=64, heldout={"a": [("h", "t")]}
    )
    return folder, read_manifest(folder)


# webdataset leaves the files that it reads to the garbage collector, which Python warns of.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_shards_back_equal(corpus: tuple[Path, Manifest]) -> None:
    folder, manifest = corpus
    for shard in manifest.shards:
        view = shards.open_shard(folder / "shards" / shard.name, manifest)
        assert view.shape == (shard.num_sequences, manifest.sequence_length)
        samples = list(webdataset.WebDataset(str(folder / "shards" / shard.name), shardshuffle=False))
        assert [sample["__key__"] for sample in samples] == [f"{row:010d}" for row in range(len(view))]
        for row, sample in zip(view, samples, strict=True):
            assert np.frombuffer(sample["bin"], "<u2").tolist() == row.tolist()
    gc.collect()


def test_the_view_is_a_view(corpus: tuple[Path, Manifest]) -> None:
    folder, manifest = corpus
    view = shards.open_shard(folder / "shards" / manifest.shards[0].name, manifest)
    assert view.strides[0] == manifest.stride
    assert not view.flags.owndata
    assert not view.flags.writeable


def test_only_end_of_text_ends_documents_and_no_text_makes_it(corpus: tuple[Path, Manifest]) -> None:
    folder, manifest = corpus
    for source in manifest.sources:
        views = [shards.open_shard(folder / "shards" / s.name, manifest) for s in manifest.source_shards(source.name)]
        stream = np.concatenate([view.ravel() for view in views])
        ends = int((stream == manifest.end_of_text_id).sum())
        assert ends == source.documents_kept + source.padding_tokens


def test_the_sidecar_finds_every_document(corpus: tuple[Path, Manifest]) -> None:
    folder, manifest = corpus
    found: dict[str, list[int]] = {}
    for shard in manifest.source_shards("a"):
        flat = shards.open_shard(folder / "shards" / shard.name, manifest).ravel()
        table = shards.read_sidecar(folder, shard.name)
        assert len(table) == shard.num_documents
        for entry in table.to_pylist():
            start = entry["row"] * manifest.sequence_length + entry["first_token"]
            found.setdefault(entry["id"], []).extend(flat[start : start + entry["length"]].tolist())
    assert len(found) == 150
    assert all(tokens[-1] == manifest.end_of_text_id for tokens in found.values())
    assert len(found["d8"]) == len("document 8 says <|endoftext|> ") * 8 + 1


def test_a_sidecars_bytes_do_not_depend_on_how_it_is_handed_over(tmp_path: Path) -> None:
    count = 150_000
    columns = {"row": range(count), "first_token": [0] * count, "length": [1] * count}
    table = pa.table(
        {"id": [f"a long id of document {i:09d}" for i in range(count)], "source": ["s"] * count, **columns}
    )
    table = table.cast(shards.SIDECAR_SCHEMA)
    for name, step in (("one", count), ("many", 777), ("groups", shards.GROUP_ROWS)):
        with shards.SidecarWriter(tmp_path / name) as writer:
            for first in range(0, count, step):
                writer.write(table[first : first + step])
    assert pq.ParquetFile(tmp_path / "one").num_row_groups == 3
    assert pq.read_table(tmp_path / "one").equals(table)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes() == (tmp_path / "groups").read_bytes()


def test_a_sidecar_is_written_as_it_comes() -> None:
    """One row group is held, not all documents of a shard."""
    ids = [f"{at * 2_654_435_761 % 2**32:x}" for at in range(shards.GROUP_ROWS)]  # nothing to compress
    columns = {"row": range(len(ids)), "first_token": [0] * len(ids), "length": [1] * len(ids)}
    table = pa.table({"id": ids, "source": ["s"] * len(ids), **columns}).cast(shards.SIDECAR_SCHEMA)
    file = io.BytesIO()
    with shards.SidecarWriter(file) as writer:
        sizes = []
        for _ in range(4):
            writer.write(table)
            sizes.append(file.tell())
    assert all(after - before > 100_000 for before, after in pairwise(sizes))


def test_a_cut_shard_is_refused(corpus: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = corpus
    cut = tmp_path / "cut.tar"
    cut.write_bytes((folder / "shards" / manifest.shards[0].name).read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.tar.*not a whole shard"):
        shards.open_shard(cut, manifest)


def test_verify_names_the_file_with_a_flipped_byte(tmp_path: Path) -> None:
    manifest = write_small_corpus(
        tmp_path, {"a": [("x", "some text")], "b": [("y", "more")]}, sequence_length=4, heldout={"b": [("z", "held")]}
    )
    assert verify(tmp_path) == ()
    for name in (
        "tokenizer.json",
        "shards/a-00000.tar",
        "shards/b-00000.docs.parquet",
        "shards/a.cells.npy",
        "heldout/b.parquet",
    ):
        path = tmp_path / name
        good = path.read_bytes()
        at = min(600, len(good) - 1)
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        [problem] = verify(tmp_path)
        assert str(path) in problem
        path.write_bytes(good)
    (tmp_path / "shards" / manifest.shards[0].name).unlink()
    [problem] = verify(tmp_path)
    assert "a-00000.tar" in problem
    record = tmp_path / "manifest.json"
    record.write_text(record.read_text().replace('"num_tokens": 5', '"num_tokens": 6'))
    with pytest.raises(ValueError, match="digest"):
        verify(tmp_path)
