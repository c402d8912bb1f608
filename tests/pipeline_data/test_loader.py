"""The loader hands out exactly what the order says, for every split of the work, and names what it cannot read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.errors import DataError
from data_prep.manifest import Manifest, ShardRecord
from data_prep.pack import Tokens
from data_prep.shards import open_shard
from pipeline.batches import Batches, BatchStage
from pipeline.data import loader as loader_module
from pipeline.data.corpus_shards import CorpusShards, LocalShards
from pipeline.data.loader import Loader
from pipeline.data.order import Order, order_of, rank_positions
from tests.train.small_runs import small_corpus

CORPUS = tuple[Path, Manifest]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> CORPUS:
    folder = tmp_path_factory.mktemp("corpus")
    return folder, small_corpus(folder)


def loader(
    corpus: CORPUS,
    rank: int = 0,
    world: int = 1,
    micro: int = 8,
    batches: Batches = Batches(size=8),  # noqa: B008
    order: Order | None = None,
    shards: CorpusShards | None = None,
) -> Loader:
    folder, manifest = corpus
    return Loader(
        shards or LocalShards(folder, manifest),
        manifest,
        order or order_of(manifest, (0.7, 0.3), seed=1),
        rank=rank,
        world_size=world,
        batches=batches,
        micro_batch_size=micro,
    )


def sequences(corpus: CORPUS, order: Order, positions: np.ndarray) -> np.ndarray:
    """The plain way: one row at a time."""
    folder, manifest = corpus
    ids = order.locate(positions)
    rows = []
    for source, shard, row in zip(ids.source, ids.shard, ids.row, strict=True):
        record = manifest.source_shards(manifest.sources[source].name)[shard]
        rows.append(open_shard(folder / "shards" / record.name, manifest)[row])
    return np.stack(rows)


def written_again(corpus: CORPUS, folder: Path, change: dict[str, Callable[[bytes], bytes]]) -> CORPUS:
    """The corpus with the bytes of some shards changed: name -> function of them, "" -> for all."""
    (folder / "shards").mkdir()
    for shard in corpus[1].shards:
        changed = change.get(shard.name, change.get("", bytes))
        (folder / "shards" / shard.name).write_bytes(changed((corpus[0] / "shards" / shard.name).read_bytes()))
    return folder, corpus[1]


@pytest.mark.parametrize(("world", "micro"), [(1, 8), (1, 2), (2, 2), (4, 1)])
def test_each_world_reads_the_same_global_batches(corpus: CORPUS, world: int, micro: int) -> None:
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


@settings(max_examples=60, deadline=None)
@given(
    world=st.integers(1, 3),
    micro=st.integers(1, 3),
    stages=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), max_size=2),
    accumulation=st.integers(3, 5),
    steps=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    skipped=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), max_size=2),
    sizes=st.tuples(st.sampled_from([1, 3_000, 10_000, 1 << 20]), st.integers(1, 7), st.sampled_from([1, 50, 9_000])),
)
def test_batches_are_those_of_a_plain_reader(
    corpus: CORPUS,
    world: int,
    micro: int,
    stages: list[tuple[int, int]],
    accumulation: int,
    steps: list[int],
    skipped: list[tuple[int, int]],
    sizes: tuple[int, int, int],
) -> None:
    """Whatever fits into a buffer, and wherever training goes: two steps in a row from each of `steps` on."""
    at_once = world * micro
    batches = Batches(
        size=accumulation * at_once,
        stages=tuple(BatchStage(steps=count, size=size * at_once) for count, size in stages),
    )
    order = order_of(corpus[1], (0.7, 0.3), seed=1)
    for first, count in skipped:
        order = order.skipping(first, count)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in zip(("BUFFER_BYTES", "BUFFER_STEPS", "LOCATED_ROWS"), sizes, strict=True):
            patched.setattr(loader_module, name, value)
        patched.setattr(loader_module, "GATHERED_BYTES", 2_000)
        with loader(corpus, world - 1, world, micro, batches, order) as one:
            for step in [step + more for step in steps for more in (0, 1)]:
                positions = rank_positions(batches.positions(step), world - 1, world, micro)
                expected = sequences(corpus, order, positions.reshape(-1)).reshape(*positions.shape, 64)
                assert (one.batch(step) == expected).all()


def test_a_truncated_shard_is_named(corpus: CORPUS, tmp_path: Path) -> None:
    torn = written_again(corpus, tmp_path, {"": lambda data: data[:-100]})
    with loader(torn) as one, pytest.raises(DataError, match=r"(prose|code)-\d+\.tar.*row \d+.*is not a whole shard"):
        one.batch(0)


def test_a_shard_of_another_length_is_named(corpus: CORPUS, tmp_path: Path) -> None:
    stride = corpus[1].stride
    shorter = written_again(corpus, tmp_path, {"": lambda data: data[stride:]})
    with loader(shorter) as one, pytest.raises(DataError, match=r"has \d+ sequences, and the manifest says \d+"):
        one.batch(0)


def test_a_row_that_holds_no_token_ids_is_named(corpus: CORPUS, tmp_path: Path) -> None:
    name, row, stride = "prose-00001.tar", 5, corpus[1].stride
    damage = {name: lambda data: data[: row * stride + 520] + b"\xff\xff" + data[row * stride + 522 :]}
    damaged = written_again(corpus, tmp_path, damage)
    with loader(damaged) as one, pytest.raises(DataError, match=rf"{name}.*row {row} has an id beyond the vocabulary"):
        list(map(one.batch, range(200)))


class Failing:
    """Shards that fail, or hang, from a position on."""

    def __init__(self, corpus: CORPUS, position: int, hang: Event | None = None) -> None:
        self._shards = LocalShards(*corpus)
        self._from, self._hang = position, hang
        self.heard: list[int] = []

    @contextmanager
    def opened(self, shard: ShardRecord) -> Iterator[Tokens]:
        if self.heard[-1] >= self._from:
            if self._hang is None:
                raise OSError("the disk is gone")
            self._hang.wait()
        with self._shards.opened(shard) as tokens:
            yield tokens

    def prepare(self, position: int) -> None:
        self.heard.append(position)

    def close(self) -> None:
        pass


def test_what_comes_next_is_read_before_it_is_asked_for_and_once(
    corpus: CORPUS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "BUFFER_STEPS", 2)
    shards = Failing(corpus, 1_000_000)
    with loader(corpus, shards=shards) as one:
        list(map(one.batch, range(4)))
    assert shards.heard == [0, 16, 32]


def test_what_fails_ahead_fails_the_step_that_needs_it(corpus: CORPUS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "BUFFER_STEPS", 2)
    order = order_of(corpus[1], (0.7, 0.3), seed=1)
    with loader(corpus, shards=Failing(corpus, 4 * 8)) as one:
        for step in range(4):
            assert (one.batch(step).reshape(8, 64) == sequences(corpus, order, np.arange(step * 8, step * 8 + 8))).all()
        for _ in range(2):
            with pytest.raises(DataError, match=r"(prose|code)-\d+\.tar, wanted from row \d+ on: the disk is gone"):
                one.batch(4)
        assert (one.batch(3).reshape(8, 64) == sequences(corpus, order, np.arange(24, 32))).all()


def test_closing_does_not_wait_for_a_disk_that_hangs(corpus: CORPUS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "CLOSE_S", 0.01)
    hang = Event()
    one = loader(corpus, shards=Failing(corpus, 1, hang))
    one.batch(0)
    one.close()
    hang.set()
