"""The loader hands out exactly what the order says, for every split of the work."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.manifest import Manifest
from data_prep.shards import open_shard
from pipeline.batches import Batches, BatchStage
from pipeline.data.loader import Loader
from pipeline.data.order import Order, order_of
from tests.train.small_runs import small_corpus

BATCHES = Batches(size=8)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("corpus")
    return folder, small_corpus(folder)


def loader(corpus: tuple[Path, Manifest], rank: int, world: int, micro: int, batches: Batches = BATCHES) -> Loader:
    folder, manifest = corpus
    order = order_of(manifest, (0.7, 0.3), seed=1)
    return Loader(folder, manifest, order, rank=rank, world_size=world, batches=batches, micro_batch_size=micro)


def sequences(corpus: tuple[Path, Manifest], order: Order, positions: np.ndarray) -> np.ndarray:
    """The plain way: one row at a time."""
    folder, manifest = corpus
    ids = order.locate(positions)
    rows = []
    for source, shard, row in zip(ids.source, ids.shard, ids.row, strict=True):
        record = manifest.source_shards(manifest.sources[source].name)[shard]
        rows.append(open_shard(folder / "shards" / record.name, manifest)[row])
    return np.stack(rows).astype(np.int64)


@pytest.mark.parametrize(("world", "micro"), [(1, 8), (1, 2), (2, 2), (4, 1)])
def test_each_world_reads_the_same_global_batches(corpus: tuple[Path, Manifest], world: int, micro: int) -> None:
    order = order_of(corpus[1], (0.7, 0.3), seed=1)
    loaders = [loader(corpus, rank, world, micro) for rank in range(world)]
    for step in (0, 1, 2, 700, 3):  # in a row, so that reading ahead is used, then elsewhere
        parts = [one.batch(step) for one in loaders]
        assert all(part.shape == (8 // (world * micro), micro, 64) for part in parts)
        # (rank, accumulation, micro) -> the order of positions: accumulation, rank, micro
        batch = np.stack(parts, axis=1).reshape(8, 64)
        assert (batch == sequences(corpus, order, np.arange(step * 8, step * 8 + 8))).all()
    for one in loaders:
        one.close()


def test_batches_grow_and_each_rank_follows(corpus: tuple[Path, Manifest]) -> None:
    """Also within the steps that are located at once, and when a run begins behind the first stage."""
    order = order_of(corpus[1], (0.7, 0.3), seed=1)
    batches = Batches(size=16, stages=(BatchStage(steps=3, size=4), BatchStage(steps=70, size=8)))
    loaders = [loader(corpus, rank, 2, 2, batches) for rank in range(2)]
    for step, first, size in [(2, 8, 4), (3, 12, 8), (4, 20, 8), (72, 564, 8), (73, 572, 16), (0, 0, 4), (90, 844, 16)]:
        batch = np.stack([one.batch(step) for one in loaders], axis=1).reshape(-1, 64)
        assert (batch == sequences(corpus, order, np.arange(first, first + size))).all()
    for one in loaders:
        one.close()


def test_a_truncated_shard_is_named(corpus: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = corpus
    shards = tmp_path / "shards"
    shards.mkdir()
    for shard in manifest.shards:
        (shards / shard.name).write_bytes((folder / "shards" / shard.name).read_bytes()[:-100])
    with (
        loader((tmp_path, manifest), 0, 1, 8) as torn,
        pytest.raises(ValueError, match=r"prose-\d+\.tar|code-\d+\.tar"),
    ):
        torn.batch(0)
