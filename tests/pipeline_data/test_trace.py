"""Promise 4: every token has a parent. What trace and where say is what the plain way finds, and neither scans."""

import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.trace import BATCH as BIG_BATCH
from benchmarks.trace import DOCUMENT, STEP, make_corpus
from data_prep import pack
from data_prep.files import sha256_file
from data_prep.manifest import Manifest, cells_name, read_manifest, sidecar_name
from data_prep.shard_table import Shards, shards_of
from data_prep.shards import open_shard, read_sidecar
from data_prep.small import write_small_corpus
from data_prep.weights import BLOCK
from pipeline.batches import Batches, BatchStage
from pipeline.data import trace
from pipeline.data.mixture import Change
from pipeline.data.order import Order, order_of
from pipeline.data.trace import (
    document_ids,
    documents_of_step,
    find_document,
    groups_of_rows,
    is_held_out,
    parts_in_rows,
    steps_of_document,
)
from pipeline.errors import PipelineError
from tests.train.small_runs import sentences

LENGTH, BATCH, STEPS = 32, 8, 30
BATCHES = Batches(size=BATCH)
LONG = "the water of the mill " * 90
"""A document of many rows and several shards."""


@pytest.fixture(scope="module", autouse=True)
def small_cells() -> Iterator[None]:
    """A handful of cells a source instead of one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "CELL_BYTES", 1_000)
        yield


@pytest.fixture(scope="module", params=pack.PACKINGS)
def corpus(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, Manifest, Order]:
    folder = tmp_path_factory.mktemp("corpus")
    prose = [*sentences("prose", 60), ("long", LONG), ("both", "in prose"), ("twice", "one"), ("twice", "another one")]
    code = [*sentences("code", 12), ("both", "in code"), ("", "no name"), ("名 前", "a name of its own")]
    manifest = write_small_corpus(
        folder,
        {"prose": prose, "code": code},
        heldout={"prose": [("kept", "kept from training")]},
        sequence_length=LENGTH,
        sequences_per_shard=7,
        seed=3,
        packing=request.param,
    )
    return folder, manifest, order_of(manifest, (0.6, 0.4), seed=5)


def text_at(folder: Path, manifest: Manifest, shard: str, row: int) -> bytes:
    """A row's text: in the small corpus a token is a byte, in the order of the byte-level alphabet."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = open_shard(folder / "shards" / shard, manifest)[row].tolist()
    return b"".join(
        b"\0" if token == manifest.end_of_text_id else tokenizer.decode([token], skip_special_tokens=False).encode()
        for token in tokens
    )


def test_a_step_is_made_of_the_documents_it_says(corpus: tuple[Path, Manifest, Order]) -> None:
    """Token for token: the parts of each sequence fill it from end to end, with those documents' own text."""
    folder, manifest, order = corpus
    texts = {("prose", key): words for key, words in [*sentences("prose", 60), ("long", LONG), ("both", "in prose")]}
    texts |= {("code", key): words for key, words in [*sentences("code", 12), ("both", "in code"), ("", "no name")]}
    for step in (1, 2, STEPS):
        visits = documents_of_step(folder, manifest, order, BATCHES, step)
        ids = order.locate(np.arange((step - 1) * BATCH, step * BATCH))
        assert sorted({visit.position for visit in visits}) == list(range((step - 1) * BATCH, step * BATCH))
        by_position = defaultdict(list)
        for visit in visits:
            assert visit.step == step
            by_position[visit.position].append(visit.part)
        for position, parts in by_position.items():
            at = position - (step - 1) * BATCH
            source = manifest.sources[ids.source[at]].name
            shard = manifest.source_shards(source)[ids.shard[at]].name
            assert {(part.source, part.shard, part.row) for part in parts} == {(source, shard, ids.row[at])}
            row, end = text_at(folder, manifest, shard, int(ids.row[at])), 0
            for part in parts:
                assert part.first_token == end
                end += part.num_tokens
                words = row[part.first_token : end].rstrip(b"\0").decode()
                assert words in texts.get((source, part.id), words)
            assert set(row[end:]) <= {0}, "what no document fills is padding"


def test_where_finds_what_a_look_at_every_sidecar_finds(corpus: tuple[Path, Manifest, Order]) -> None:
    folder, manifest, _ = corpus
    for source in ("prose", "code"):
        everywhere = defaultdict(list)
        for number, shard in enumerate(manifest.source_shards(source)):
            for entry in read_sidecar(folder, shard.name).to_pylist():
                everywhere[entry["id"]].append((number, entry))
        for document_id, entries in everywhere.items():
            found = find_document(folder, manifest, source, document_id)
            tokens = [
                (number, part.row * LENGTH + part.first_token + at)
                for number, part in found
                for at in range(part.num_tokens)
            ]
            assert tokens == [
                (number, entry["row"] * LENGTH + entry["first_token"] + at)
                for number, entry in entries
                for at in range(entry["length"])
            ]
            assert all(part.first_token + part.num_tokens <= LENGTH for _, part in found)
        assert len(np.load(folder / "shards" / cells_name(source))) > 3


def test_where_is_the_inverse_of_trace(corpus: tuple[Path, Manifest, Order]) -> None:
    """For every document of the corpus: the steps that name it are the steps that where gives."""
    folder, manifest, order = corpus
    seen = defaultdict(list)
    for step in range(1, STEPS + 1):
        for visit in documents_of_step(folder, manifest, order, BATCHES, step):
            seen[visit.part.source, visit.part.id].append(visit)
    documents = {("prose", key) for key, _ in sentences("prose", 60)} | {
        ("code", key) for key, _ in sentences("code", 12)
    }
    documents |= {
        ("prose", "long"),
        ("prose", "both"),
        ("code", "both"),
        ("prose", "twice"),
        ("code", ""),
        ("code", "名 前"),
    }
    assert set(seen) <= documents
    for source, document_id in documents:
        found = steps_of_document(folder, manifest, order, BATCHES, source, document_id, STEPS)
        assert found is not None
        assert sorted(found, key=repr) == sorted(seen[source, document_id], key=repr)
    assert max(visit.epoch for visits in seen.values() for visit in visits) >= 2, "several epochs were looked at"
    assert len({visit.part.shard for visit in seen["prose", "long"]}) >= 3


def test_where_is_the_inverse_of_trace_while_weights_change_and_batches_grow(
    corpus: tuple[Path, Manifest, Order],
) -> None:
    """A source that comes only with the second block of the mixture, in which the steps looked at begin and end."""
    folder, manifest, _ = corpus
    order = order_of(manifest, (1.0, 0.0), seed=5, changes=(Change(first_block=1, weights=(0.3, 0.7)),))
    batches, last = Batches(size=16, stages=(BatchStage(steps=4, size=998),)), 16
    assert batches.first(10) < BLOCK < batches.first(11)
    seen = defaultdict(list)
    for step in range(6, last + 1):
        for visit in documents_of_step(folder, manifest, order, batches, step):
            seen[visit.part.source, visit.part.id].append(visit)
    assert min(visit.position for (source, _), visits in seen.items() for visit in visits if source == "code") >= BLOCK
    for source, document_id in [*seen, ("code", "both"), ("prose", "prose0")]:
        found = steps_of_document(folder, manifest, order, batches, source, document_id, last)
        assert found is not None
        assert sorted((one for one in found if one.step >= 6), key=repr) == sorted(seen[source, document_id], key=repr)


def test_what_is_not_there_is_not_found(corpus: tuple[Path, Manifest, Order]) -> None:
    folder, manifest, order = corpus
    for document_id in ("nobody", "kept", "prose", "code0"):
        assert steps_of_document(folder, manifest, order, BATCHES, "prose", document_id, STEPS) is None
    assert steps_of_document(folder, manifest, order, BATCHES, "prose", "long", 0) == ()
    assert is_held_out(folder, manifest, "prose", "kept")
    assert not is_held_out(folder, manifest, "code", "kept")
    assert not is_held_out(folder, manifest, "prose", "long")


def test_two_documents_of_one_id_are_both_found(corpus: tuple[Path, Manifest, Order]) -> None:
    folder, manifest, _ = corpus
    parts = [part for _, part in find_document(folder, manifest, "prose", "twice")]
    assert sum(part.num_tokens for part in parts) == len("one") + len("another one") + 2


@pytest.mark.parametrize("rows_in_group", [1, 3])
def test_row_groups_are_picked_rightly(
    corpus: tuple[Path, Manifest, Order], tmp_path: Path, rows_in_group: int
) -> None:
    """Real groups hold 64k documents; small ones must give the same answers."""
    import pyarrow.parquet as pq

    folder, manifest, _ = corpus
    (tmp_path / "shards").mkdir()
    for source in manifest.sources:
        shutil.copy(folder / "shards" / cells_name(source.name), tmp_path / "shards")
    records = []
    for record in manifest.shards:
        sidecar = tmp_path / "shards" / sidecar_name(record.name)
        pq.write_table(pq.read_table(folder / "shards" / sidecar.name), sidecar, row_group_size=rows_in_group)
        records.append(replace(record, docs_sha256=sha256_file(sidecar)))
    small_groups = replace(manifest, shards=shards_of(records, manifest.shards.sources))
    for old, new in zip(manifest.shards, records, strict=True):
        for row in range(old.num_sequences):
            parts = parts_in_rows(trace.sidecar(tmp_path, new), small_groups, new, [row])
            assert parts == parts_in_rows(trace.sidecar(folder, old), manifest, old, [row])
    for document_id in ["long", "both", "twice", *(f"prose{i}" for i in range(60))]:
        expected = find_document(folder, manifest, "prose", document_id)
        assert find_document(tmp_path, small_groups, "prose", document_id) == expected
        assert expected


def test_a_group_that_begins_inside_a_row_needs_the_one_before() -> None:
    assert list(groups_of_rows([0, 3, 3, 7], range(3, 4))) == [0, 1, 2]
    assert list(groups_of_rows([0, 3, 3, 7], range(5, 6))) == [2]
    assert list(groups_of_rows([0, 3, 3, 7], range(0, 1))) == [0]
    assert list(groups_of_rows([0, 3, 3, 7], range(9, 10))) == [3]
    assert list(groups_of_rows([0, 3, 3, 7], range(4, 8))) == [2, 3]
    assert list(groups_of_rows([0, 3, 3, 7], range(0, 9))) == [0, 1, 2, 3]


def test_a_changed_sidecar_is_named(corpus: tuple[Path, Manifest, Order]) -> None:
    folder, manifest, order = corpus
    records = [replace(shard, docs_sha256="0" * 64) for shard in manifest.shards]
    changed = replace(manifest, shards=shards_of(records, manifest.shards.sources))
    with pytest.raises(PipelineError, match=r"prose-\d+\.docs\.parquet"):
        steps_of_document(folder, changed, order, BATCHES, "prose", "long", STEPS)
    with pytest.raises(PipelineError, match=r"docs\.parquet"):
        documents_of_step(folder, changed, order, BATCHES, 1)
    other_cells = replace(manifest, sources=tuple(replace(one, cells_sha256="0" * 64) for one in manifest.sources))
    with pytest.raises(PipelineError, match=r"prose\.cells\.npy"):
        steps_of_document(folder, other_cells, order, BATCHES, "prose", "long", STEPS)


def test_a_sidecar_is_verified_once_for_all_steps_that_read_it(
    corpus: tuple[Path, Manifest, Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a rollback asks, which has all ranks wait for the answer."""
    folder, manifest, order = corpus
    hashed: list[Path] = []

    def noted(path: Path) -> str:
        hashed.append(path)
        return sha256_file(path)

    monkeypatch.setattr(trace, "sha256_file", noted)
    steps = range(1, STEPS + 1)
    ids = document_ids(folder, manifest, order, BATCHES, steps)
    assert len(hashed) == len({*hashed}) > 1
    visits = [visit for step in steps for visit in documents_of_step(folder, manifest, order, BATCHES, step)]
    for source, found in ids.items():
        assert found == sorted({visit.part.id for visit in visits if visit.part.source == source})


def test_no_scan_at_a_million_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways open the sidecars that they tell of, and make the records of those shards only."""
    make_corpus(tmp_path, 1_000_000, cells_per_shard=1)
    manifest = read_manifest(tmp_path)
    order = order_of(manifest, (1.0,), seed=0)
    opened: list[str] = []
    made: list[int | slice] = []
    real_file, real_get = trace.pq.ParquetFile, Shards.__getitem__

    def counting_file(path: Path) -> object:
        opened.append(path.name)
        return real_file(path)

    def counting_get(shards: Shards, at: int | slice) -> object:
        made.append(at)
        return real_get(shards, at)  # type: ignore[call-overload]

    monkeypatch.setattr(trace.pq, "ParquetFile", counting_file)
    monkeypatch.setattr(Shards, "__getitem__", counting_get)
    until_step = 2 * manifest.sources[0].num_sequences // BIG_BATCH
    visits = steps_of_document(tmp_path, manifest, order, Batches(size=BIG_BATCH), "web", DOCUMENT, until_step)
    assert visits is not None
    assert [visit.epoch for visit in visits] == [0, 1]
    assert opened == [sidecar_name(visits[0].part.shard)]
    assert len(made) <= 3

    opened.clear()
    made.clear()
    visits = documents_of_step(tmp_path, manifest, order, Batches(size=BIG_BATCH), STEP)
    assert len({visit.position for visit in visits}) == BIG_BATCH
    assert len(opened) == len({visit.part.shard for visit in visits}) <= 2
    assert len(made) <= 3
