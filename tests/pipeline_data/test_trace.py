"""Promise 4: every token has a parent. What trace and where say is what the plain way finds, and neither scans."""

import math
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import keys
from data_prep.files import sha256_file
from data_prep.manifest import Manifest, ShardRecord, sidecar_name
from data_prep.shards import open_shard, shard_name, write_sidecar
from data_prep.small import write_small_corpus
from pipeline.data import trace
from pipeline.data.mixture import BLOCK
from pipeline.data.order import Order, order_of
from pipeline.data.trace import (
    documents_of_step,
    find_document,
    groups_of_row,
    is_held_out,
    parts_in_rows,
    runs_with,
    steps_of_document,
)
from pipeline.errors import PipelineError
from tests.train.small_runs import sentences

LENGTH, BATCH, STEPS = 32, 8, 30
LONG = "the water of the mill " * 90
"""A document of many rows and several shards."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, Order]:
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
        visits = documents_of_step(folder, manifest, order, BATCH, step)
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


def test_where_is_the_inverse_of_trace(corpus: tuple[Path, Manifest, Order]) -> None:
    """For every document of the corpus: the steps that name it are the steps that where gives."""
    folder, manifest, order = corpus
    seen = defaultdict(list)
    for step in range(1, STEPS + 1):
        for visit in documents_of_step(folder, manifest, order, BATCH, step):
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
        found = steps_of_document(folder, manifest, order, BATCH, source, document_id, STEPS)
        assert found is not None
        assert sorted(found, key=repr) == sorted(seen[source, document_id], key=repr)
    assert max(visit.epoch for visits in seen.values() for visit in visits) >= 2, "several epochs were looked at"
    assert len({visit.part.shard for visit in seen["prose", "long"]}) >= 3


def test_what_is_not_there_is_not_found(corpus: tuple[Path, Manifest, Order]) -> None:
    folder, manifest, order = corpus
    for document_id in ("nobody", "kept", "prose", "code0"):
        assert steps_of_document(folder, manifest, order, BATCH, "prose", document_id, STEPS) is None
    assert steps_of_document(folder, manifest, order, BATCH, "prose", "long", 0) == ()
    assert is_held_out(folder, manifest, "prose", "kept")
    assert not is_held_out(folder, manifest, "code", "kept")
    assert not is_held_out(folder, manifest, "prose", "long")


def test_two_documents_of_one_id_are_both_found(corpus: tuple[Path, Manifest, Order]) -> None:
    folder, manifest, _ = corpus
    parts = [part for _, part in find_document(folder, manifest, "prose", "twice")]
    assert sum(part.num_tokens for part in parts) == len("one") + len("another one") + 2


@given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=5), max_size=12), st.integers(0, 20))
def test_runs_with_a_key_are_among_those_given(lengths: list[list[int]], key: int) -> None:
    """Runs of one long sorted list; also where a key fills several of them."""
    flat = sorted(key for run in lengths for key in run)
    runs, start = [], 0
    for run in lengths:
        runs.append(flat[start : start + len(run)])
        start += len(run)
    given_runs = runs_with(key, len(runs), lambda at: runs[at][0])
    holding = [at for at, run in enumerate(runs) if key in run]
    assert set(holding) <= set(given_runs)
    assert len(given_runs) <= len(holding) + 1


@pytest.mark.parametrize("rows_in_group", [1, 3])
def test_row_groups_are_picked_rightly(
    corpus: tuple[Path, Manifest, Order], tmp_path: Path, rows_in_group: int
) -> None:
    """Real groups hold 64k documents; small ones must give the same answers."""
    import pyarrow.parquet as pq

    folder, manifest, _ = corpus
    (tmp_path / "shards").mkdir()
    records = []
    for record in manifest.shards:
        sidecar = tmp_path / "shards" / sidecar_name(record.name)
        pq.write_table(pq.read_table(folder / "shards" / sidecar.name), sidecar, row_group_size=rows_in_group)
        records.append(replace(record, docs_sha256=sha256_file(sidecar)))
    small_groups = replace(manifest, shards=tuple(records))
    for old, new in zip(manifest.shards, records, strict=True):
        for row in range(old.num_sequences):
            assert parts_in_rows(tmp_path, small_groups, new, [row]) == parts_in_rows(folder, manifest, old, [row])
    for document_id in ["long", "both", "twice", *(f"prose{i}" for i in range(60))]:
        expected = find_document(folder, manifest, "prose", document_id)
        assert find_document(tmp_path, small_groups, "prose", document_id) == expected
        assert expected


def test_a_group_that_begins_inside_a_row_needs_the_one_before() -> None:
    assert list(groups_of_row([0, 3, 3, 7], 3)) == [0, 1, 2]
    assert list(groups_of_row([0, 3, 3, 7], 5)) == [2]
    assert list(groups_of_row([0, 3, 3, 7], 0)) == [0]
    assert list(groups_of_row([0, 3, 3, 7], 9)) == [3]


def test_a_changed_sidecar_is_named(corpus: tuple[Path, Manifest, Order]) -> None:
    folder, manifest, order = corpus
    changed = replace(manifest, shards=tuple(replace(shard, docs_sha256="0" * 64) for shard in manifest.shards))
    with pytest.raises(PipelineError, match=r"prose-\d+\.docs\.parquet"):
        steps_of_document(folder, changed, order, BATCH, "prose", "long", STEPS)
    with pytest.raises(PipelineError, match=r"docs\.parquet"):
        documents_of_step(folder, changed, order, BATCH, 1)


NUM_SHARDS, DOCUMENTS = 1_500, 40


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Sidecars without shards: 60,000 documents, one a row, over 1,500 shards."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "shards").mkdir()
    base = write_small_corpus(folder / "base", {"web": [("x", "y")]}, sequence_length=LENGTH, seed=1)
    ids = [f"https://example.org/{i}" for i in range(NUM_SHARDS * DOCUMENTS)]
    ids.sort(key=lambda one: keys.document_key(keys.SHUFFLE, 1, "web", one))
    records = []
    for number in range(NUM_SHARDS):
        name = shard_name("web", number)
        table = pa.table(
            {
                "id": ids[number * DOCUMENTS : (number + 1) * DOCUMENTS],
                "source": ["web"] * DOCUMENTS,
                "row": np.arange(DOCUMENTS),
                "first_token": np.zeros(DOCUMENTS, dtype=np.int64),
                "length": np.full(DOCUMENTS, LENGTH),
            }
        )
        sidecar = folder / "shards" / sidecar_name(name)
        write_sidecar(sidecar, table)
        records.append(
            ShardRecord(
                name=name,
                source="web",
                num_sequences=DOCUMENTS,
                num_documents=DOCUMENTS,
                size_bytes=0,
                sha256="",
                docs_sha256=sha256_file(sidecar),
            )
        )
    source = replace(base.sources[0], num_sequences=len(ids), documents_kept=len(ids))
    return folder, replace(base, sequences_per_shard=DOCUMENTS, sources=(source,), shards=tuple(records))


def test_no_scan_at_many_shards(many_shards: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways open a few of 1,500 sidecars, and take a small part of a second."""
    folder, manifest = many_shards
    order = order_of(manifest, (1.0,), seed=2)
    opened: list[str] = []
    real = trace.pq.ParquetFile

    def counting(path: Path) -> object:
        opened.append(path.name)
        return real(path)

    monkeypatch.setattr(trace.pq, "ParquetFile", counting)
    for document in (0, 1, 31_415, 59_999):
        opened.clear()
        began = time.perf_counter()
        visits = steps_of_document(folder, manifest, order, 256, "web", f"https://example.org/{document}", 600)
        took_s = time.perf_counter() - began
        assert visits is not None
        assert [visit.epoch for visit in visits] == [0, 1] or len(visits) == 3
        # Two bisections over the same first keys, and the one or two sidecars that may hold it.
        assert len(set(opened)) <= 2 * math.ceil(math.log2(NUM_SHARDS)) + 2
        assert took_s < 1
        [again, *_] = (
            one
            for one in documents_of_step(folder, manifest, order, 256, visits[0].step)
            if one.part.id == f"https://example.org/{document}"
        )
        assert again == visits[0]
    opened.clear()
    documents_of_step(folder, manifest, order, 256, 12_345)
    assert len(opened) <= BLOCK // DOCUMENTS + 2, "the shards that the step's mixture block reads, no others"
