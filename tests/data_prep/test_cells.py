"""Encoded parts to shards, cell by cell: the bytes of the plain twin, whatever the parts, in the memory of a cell."""

import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from data_prep import assemble, keys, pack
from data_prep.cells import Run, cell_lengths, merge_parts, parts_of, read_cells, save_part, split
from data_prep.manifest import Manifest, cells_name
from data_prep.small import byte_tokenizer, write_small_corpus
from data_prep.texts import texts_of
from data_prep.work import Work
from tests.data_prep.corpora import files_of, texts

LENGTH, PER_SHARD, SEED = 64, 20, 3


@dataclass(frozen=True)
class Encoded:
    """Documents in encoded parts, a token a byte."""

    work: Work
    parts: tuple[str, ...]
    num_cells: int


FACTS: Any = SimpleNamespace(backend="bytes", token_dtype="uint16", end_of_text_id=0)
DOCUMENTS = [(f"d{at % 280} é", text * (1 + 9 * (at == 7))) for at, text in enumerate(texts(300))]


def encode(
    folder: Path,
    documents: list[tuple[str, str]],
    num_parts: int,
    byte_ids: dict[int, int],
    packing: str = pack.CONCATENATE,
) -> Encoded:
    """What the stage before does, in the plainest way. Some ids are there twice, with other texts."""
    settings: Any = SimpleNamespace(sequence_length=LENGTH, packing=packing)
    work = Work(folder / "work", folder / "out", settings)
    num_cells = pack.num_cells(sum(len(text.encode()) for _, text in documents))
    parts = tuple(f"encode/{number:06d}" for number in range(num_parts))
    for number, part in enumerate(parts):
        rows = []
        for one, text in documents[number::num_parts]:
            data = text.encode()
            rows.append((keys.document_key(keys.SHUFFLE, SEED, "web", one), *keys.content_halves(data), one, data))
        rows.sort()
        table = np.array([row[:3] for row in rows], dtype=[("shuffle", "<u8"), ("high", "<u8"), ("low", "<u8")])
        tokens = [[byte_ids[byte] for byte in row[4]] + [0] for row in rows]
        save_part(
            work,
            part,
            table,
            np.array([len(one) for one in tokens], dtype=np.int64),
            np.array([token for one in tokens for token in one], dtype=np.uint16),
            texts_of([row[3].encode() for row in rows]),
        )
    return Encoded(work, parts, num_cells)


def assembled(encoded: Encoded, per_shard: int = PER_SHARD, merged_at_once: int = 1000) -> list[Any]:
    """The shards' records. Parts are merged in groups of so many, each in three stretches of cells."""
    work, runs = encoded.work, [Run(cells=range(encoded.num_cells), parts=encoded.parts)]
    if len(encoded.parts) > merged_at_once:
        runs = []
        for first in range(0, len(encoded.parts), merged_at_once):
            for cells in split(encoded.num_cells, 3):
                name = f"merge/{first:06d}{cells.start:06d}"
                group = encoded.parts[first : first + merged_at_once]
                merge_parts(work, name, cells, encoded.num_cells, group, FACTS)
                runs.append(Run(cells=cells, parts=(name,)))
    packed = [
        assemble.pack_cells(work, "pack/one", cells, encoded.num_cells, parts_of(runs, cells))
        for cells in assemble.cell_ranges(encoded.num_cells)
    ]
    stream = assemble.write_cells(work.output, "web", packed)
    return [
        assemble.write_shard(
            work, "shards/one", "web", span, parts_of(runs, pack.cells_of_span(span, stream.starts)), FACTS
        )
        for span in pack.shard_spans(stream.num_tokens, LENGTH, per_shard)
    ]


@pytest.fixture(scope="module")
def byte_ids() -> dict[int, int]:
    """The token of each ASCII byte in the small corpus."""
    tokenizer = Tokenizer.from_str(byte_tokenizer().decode())
    return {byte: tokenizer.encode(chr(byte)).ids[0] for byte in range(128)}


@pytest.fixture(autouse=True)
def small_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "CELL_BYTES", 5_000)
    monkeypatch.setattr(assemble, "CELLS_PER_TASK", 4)


def twin(folder: Path, packing: str) -> Manifest:
    return write_small_corpus(
        folder, {"web": DOCUMENTS}, sequence_length=LENGTH, sequences_per_shard=PER_SHARD, seed=SEED, packing=packing
    )


@pytest.mark.parametrize("packing", pack.PACKINGS)
@pytest.mark.parametrize(("num_parts", "merged_at_once"), [(1, 1000), (37, 1000), (37, 5)])
def test_shards_are_those_of_the_plain_twin(
    tmp_path: Path, packing: str, num_parts: int, merged_at_once: int, byte_ids: dict[int, int]
) -> None:
    manifest = twin(tmp_path / "twin", packing)
    encoded = encode(tmp_path, DOCUMENTS, num_parts, byte_ids, packing)
    assert encoded.num_cells > 2 * assemble.CELLS_PER_TASK
    assert assembled(encoded, merged_at_once=merged_at_once) == list(manifest.shards)
    mine, plain = files_of(tmp_path / "out" / "shards"), files_of(tmp_path / "twin" / "shards")
    assert mine == plain
    assert len(manifest.shards) > 5


def test_what_the_manifest_says_of_packing(tmp_path: Path) -> None:
    [concatenated], [fitted] = (twin(tmp_path / how, how).sources for how in pack.PACKINGS)
    assert (concatenated.packing, fitted.packing) == pack.PACKINGS
    assert concatenated.num_tokens == fitted.num_tokens
    assert concatenated.padding_tokens < LENGTH
    longer = sum(len(text.encode()) + 1 > LENGTH for _, text in DOCUMENTS)
    assert fitted.cut_documents == longer < concatenated.cut_documents
    for one in (concatenated, fitted):
        assert one.num_sequences * LENGTH == one.num_tokens + one.padding_tokens


def test_every_cell_begins_a_new_row_under_best_fit(tmp_path: Path) -> None:
    twin(tmp_path, pack.BEST_FIT)
    starts = np.load(tmp_path / "shards" / cells_name("web"))
    assert (starts % LENGTH == 0).all()
    assert len(starts) > 10


def test_a_cell_is_the_documents_of_its_keys(tmp_path: Path, byte_ids: dict[int, int]) -> None:
    encoded = encode(tmp_path, DOCUMENTS, 5, byte_ids)
    found = []
    for number in range(encoded.num_cells):
        cell = read_cells(encoded.work, encoded.parts, range(number, number + 1), encoded.num_cells, FACTS)
        assert cell_lengths(encoded.work, encoded.parts, number, encoded.num_cells).tolist() == cell.lengths.tolist()
        for one, start, length in zip(cell.ids.to_pylist(), cell.starts.tolist(), cell.lengths.tolist(), strict=True):
            key = keys.document_key(keys.SHUFFLE, SEED, "web", one.decode())
            assert pack.cell_of(np.array([key], dtype=np.uint64), encoded.num_cells) == number
            found.append((key, one.decode(), tuple(cell.tokens[start : start + length].tolist())))
    assert [key for key, _, _ in found] == sorted(key for key, _, _ in found)
    assert sorted((one, many) for _, one, many in found) == sorted(
        (one, (*(byte_ids[byte] for byte in text.encode()), 0)) for one, text in DOCUMENTS
    )


@pytest.mark.parametrize("packing", pack.PACKINGS)
def test_memory_does_not_grow_with_the_shard(
    tmp_path: Path, packing: str, byte_ids: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "CELL_BYTES", 100_000)
    peaks = {}
    for turn, cells in enumerate((2, 2, 16)):  # once to have everything loaded
        documents = [(f"{cells}/{at}", "a word " * 700) for at in range(cells * 100_000 // 4_900)]
        encoded = encode(tmp_path / str(turn), documents, 3, byte_ids, packing)
        tracemalloc.start()
        [shard] = assembled(encoded, per_shard=10**6)
        peaks[cells] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert shard.num_sequences * LENGTH > 95_000 * cells
    assert peaks[16] < 2 * peaks[2], "some cells are larger than others; the shard is eight times as large"
