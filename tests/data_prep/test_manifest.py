"""The manifest and its table of shards: what is read back, what is covered by the digest, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import DataMistake
from data_prep.files import sha256_file
from data_prep.manifest import (
    Manifest,
    ShardRecord,
    read_manifest,
    read_manifest_record,
    record_of,
    sealed,
    write_manifest,
)
from data_prep.shard_table import SHARD, load_shards, shards_of
from data_prep.small import write_small_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, Manifest]:
    sources = {name: [(f"{name}{i}", "word " * i) for i in range(40)] for name in ("b", "a")}
    return tmp_path, write_small_corpus(tmp_path, sources, sequence_length=16, sequences_per_shard=10)


def test_what_was_written_is_read_back(corpus: tuple[Path, Manifest]) -> None:
    folder, manifest = corpus
    found = read_manifest(folder)
    assert found == manifest
    assert list(found.shards) == list(manifest.shards)
    assert read_manifest_record(folder) == record_of(manifest)
    assert [source.num_shards for source in found.sources] == [len(found.source_shards(name)) for name in ("b", "a")]
    assert len(found.shards) == sum(source.num_shards for source in found.sources) > 20


def test_a_source_has_its_own_shards_by_number(corpus: tuple[Path, Manifest]) -> None:
    _, manifest = corpus
    for name in ("b", "a"):
        mine = manifest.source_shards(name)
        assert [shard.name for shard in mine] == [f"{name}-{at:05d}.tar" for at in range(len(mine))]
        assert [shard.number for shard in mine[3:5]] == [3, 4]
        assert mine[-1] == list(mine)[-1]
    with pytest.raises(IndexError):
        manifest.source_shards("b")[10_000]


def test_records_survive_the_table() -> None:
    records = [
        ShardRecord(
            name=f"s-{at:05d}.tar", source="s", number=at, num_sequences=at + 1, num_documents=at + 2,
            cut_documents=at + 3, size_bytes=2**40 + at, sha256=f"{at:064x}", docs_sha256=f"{2**255 + at:064x}",
        )
        for at in (0, 99_999, 1_000_000)
    ]  # fmt: skip
    assert list(shards_of(records, ("other", "s"))) == records
    assert SHARD.itemsize <= 96, "a million shards are hashed in 0.1 s"


def test_manifest_json_is_small_whatever_the_number_of_shards(corpus: tuple[Path, Manifest]) -> None:
    folder, manifest = corpus
    many = replace(manifest, shards=shards_of([*manifest.shards] * 100, ("b", "a")))
    size = (folder / "manifest.json").stat().st_size
    write_manifest(folder, sealed(many))
    assert (folder / "manifest.json").stat().st_size == size


@pytest.mark.parametrize("field", ["sha256", "docs_sha256", "num_sequences"])
def test_the_digest_covers_every_shard(corpus: tuple[Path, Manifest], field: str) -> None:
    folder, manifest = corpus
    table = manifest.shards.table.copy()
    table[field][-1] += 1
    with (folder / "shards.npy").open("wb") as file:
        np.save(file, table)
    with pytest.raises(ValueError, match=r"shards\.npy .*does not match the manifest; build the corpus again"):
        read_manifest(folder)
    changed = sealed(replace(manifest, shards=type(manifest.shards)(table, ("b", "a"))))
    assert changed.digest != manifest.digest


def test_a_changed_total_is_noticed(corpus: tuple[Path, Manifest]) -> None:
    path = corpus[0] / "manifest.json"
    path.write_text(path.read_text().replace('"num_shards": ', '"num_shards": 1'))
    with pytest.raises(ValueError, match="does not match its own digest"):
        read_manifest_record(corpus[0])


def test_a_manifest_of_another_format_is_one_clear_line(corpus: tuple[Path, Manifest]) -> None:
    folder, _ = corpus
    (folder / "manifest.json").write_text(json.dumps({"format_version": 1, "shards": []}))
    with pytest.raises(DataMistake, match=r"manifest\.json has format 1, .* reads 2; build the corpus again") as caught:
        read_manifest(folder)
    assert "\n" not in str(caught.value)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a ManifestRecord record"):
        read_manifest(folder)


def test_a_pickle_is_never_loaded(corpus: tuple[Path, Manifest]) -> None:
    """Also if its digest is the right one."""
    path = corpus[0] / "shards.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"pickle|object"):
        load_shards(path, sha256_file(path), ("a",))
