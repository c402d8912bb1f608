"""Promise 2: which sequences make up a step is arithmetic, the same for every world, and no sequence is lost or
repeated."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.weights import BLOCK
from pipeline.data.mixture import Change, Mixture, quotas
from pipeline.data.order import Order, SequenceIds, SourceOrder, rank_positions
from pipeline.data.permutation import key_of, permute

WEIGHTS = st.lists(st.floats(0.001, 1000), min_size=1, max_size=8).map(tuple)


@given(size=st.integers(1, 5000), seed=st.integers(0, 2**63))
def test_permute_is_a_permutation_and_inverse_undoes_it(size: int, seed: int) -> None:
    x = np.arange(size, dtype=np.uint64)
    image = permute(x, size, key_of(seed))
    assert sorted(image) == list(range(size))
    assert (permute(image, size, key_of(seed), inverse=True) == x).all()


@given(size=st.integers(2, 2**50), seed=st.integers(0, 2**63), at=st.integers(0, 2**50))
def test_permute_stays_inside_and_inverts_at_sizes_nobody_could_list(size: int, seed: int, at: int) -> None:
    x = np.asarray([at % size], dtype=np.uint64)
    image = permute(x, size, key_of(seed))
    assert image[0] < size
    assert permute(image, size, key_of(seed), inverse=True)[0] == x[0]


def test_permute_spreads_neighbours_and_keys() -> None:
    """A thousand neighbours land all over the range, and another key sends them elsewhere."""
    x = np.arange(1000, dtype=np.uint64)
    first, second = permute(x, 10**9, key_of(1)), permute(x, 10**9, key_of(2))
    assert abs(float(first.astype(float).mean()) / 10**9 - 0.5) < 0.05
    assert abs(np.corrcoef(x.astype(float), first.astype(float))[0, 1]) < 0.1
    assert (first == second).sum() == 0


@given(sequences=st.integers(1, 400), per_shard=st.integers(1, 60), seed=st.integers(0, 2**32))
def test_each_epoch_visits_each_sequence_once(sequences: int, per_shard: int, seed: int) -> None:
    order = SourceOrder(num_sequences=sequences, sequences_per_shard=per_shard, key=key_of(seed))
    shard, row = order.locate(np.arange(3 * sequences, dtype=np.uint64))
    last = sequences - (-(-sequences // per_shard) - 1) * per_shard
    assert (row < np.where(shard == -(-sequences // per_shard) - 1, last, per_shard)).all()
    for epoch in (shard * np.uint64(per_shard) + row).reshape(3, sequences):
        assert sorted(epoch) == list(range(sequences))


def test_epochs_differ_and_shards_are_read_one_after_another() -> None:
    order = SourceOrder(num_sequences=1000, sequences_per_shard=100, key=key_of(7))
    shard, row = order.locate(np.arange(2000, dtype=np.uint64))
    assert (row[:1000] != row[1000:]).any()
    # In sequence within an epoch: 10 shards are entered 10 times, so a remote shard is fetched once.
    assert (np.diff(shard[:1000].astype(int)) != 0).sum() == 9


@given(weights=WEIGHTS)
def test_quotas_fill_a_block_and_follow_the_weights(weights: tuple[float, ...]) -> None:
    counts = quotas(weights)
    assert sum(counts) == BLOCK
    assert min(counts) >= 1
    assert quotas((0.0, *weights, 0.0)) == (0, *counts, 0)
    for weight, count in zip(weights, counts, strict=True):
        assert abs(count - weight / sum(weights) * BLOCK) <= len(weights)


@settings(max_examples=20)
@given(weights=WEIGHTS, seed=st.integers(0, 2**32))
def test_mixture_hands_each_source_its_own_positions_in_full(weights: tuple[float, ...], seed: int) -> None:
    source, own = Mixture(weights=weights, key=seed).locate(np.arange(2 * BLOCK, dtype=np.uint64))
    for at in range(len(weights)):
        assert sorted(own[source == at]) == list(range(int((source == at).sum())))


def counted(mixture: Mixture, stages: list[tuple[int, tuple[float, ...]]]) -> tuple[np.ndarray, np.ndarray]:
    """The plain way, over (blocks, weights) stages: each source's sequences one after another, block by block."""
    given = np.zeros(len(mixture.weights), dtype=np.uint64)
    sources, own = [], []
    for block, weights in enumerate(weights for blocks, weights in stages for _ in range(blocks)):
        counts = np.asarray(quotas(weights), dtype=np.uint64)
        source = np.repeat(np.arange(len(counts), dtype=np.uint64), counts.astype(np.int64))
        place = np.arange(BLOCK, dtype=np.uint64)
        at = permute(place, BLOCK, key_of(mixture.key, block))
        sources.append(source[at])
        own.append((given[source] + place - (np.cumsum(counts) - counts)[source])[at])
        given += counts
    return np.concatenate(sources), np.concatenate(own)


@st.composite
def staged(draw: st.DrawFn) -> tuple[Mixture, list[tuple[int, tuple[float, ...]]]]:
    """A mixture with up to four stages, in which some weights are 0, and its stages as (blocks, weights)."""
    num_sources = draw(st.integers(1, 5))
    weight = st.just(0.0) | st.floats(0.001, 1000)
    weights = st.lists(weight, min_size=num_sources, max_size=num_sources).filter(any).map(tuple)
    stages = draw(st.lists(st.tuples(st.integers(1, 3), weights), min_size=1, max_size=4))
    starts = np.cumsum([blocks for blocks, _ in stages]).tolist()
    changes = tuple(Change(first_block=start, weights=one) for start, (_, one) in zip(starts, stages[1:], strict=False))
    return Mixture(weights=stages[0][1], key=draw(st.integers(0, 2**32)), changes=changes), stages


@settings(max_examples=40, deadline=None)
@given(mixture_and_stages=staged())
def test_weights_that_change_are_what_counting_along_would_give(
    mixture_and_stages: tuple[Mixture, list[tuple[int, tuple[float, ...]]]],
) -> None:
    mixture, stages = mixture_and_stages
    source, own = counted(mixture, stages)
    position = np.arange(len(source), dtype=np.uint64)
    found_source, found_own = mixture.locate(position)
    assert (found_source == source).all()
    assert (found_own == own).all()
    assert (mixture.position_of(source, own) == position).all()
    for at in range(len(mixture.weights)):
        for block in range(len(source) // BLOCK + 1):
            assert mixture.given_before(at, block) == (source[: block * BLOCK] == at).sum()


@settings(max_examples=20, deadline=None)
@given(mixture_and_stages=staged(), first=st.integers(0, 2**44))
def test_the_last_weights_hold_for_ever(
    mixture_and_stages: tuple[Mixture, list[tuple[int, tuple[float, ...]]]], first: int
) -> None:
    mixture, _ = mixture_and_stages
    position = np.arange(first, first + BLOCK, dtype=np.uint64)
    assert (mixture.position_of(*mixture.locate(position)) == position).all()


def test_weights_that_do_not_change_give_the_order_of_a_mixture_without_stages() -> None:
    position = np.arange(3 * BLOCK, dtype=np.uint64)
    plain = Mixture(weights=(0.3, 0.7), key=3)
    same = Mixture(weights=(0.3, 0.7), key=3, changes=(Change(first_block=2, weights=(0.3, 0.7)),))
    other = Mixture(weights=(0.3, 0.7), key=3, changes=(Change(first_block=2, weights=(0.7, 0.3)),))
    for found, expected, before in zip(
        plain.locate(position), same.locate(position), other.locate(position), strict=True
    ):
        assert (found == expected).all()
        assert (found[: 2 * BLOCK] == before[: 2 * BLOCK]).all()
        assert (found[2 * BLOCK :] != before[2 * BLOCK :]).any()


def test_a_source_that_leaves_for_good_stands_nowhere_after_its_last() -> None:
    mixture = Mixture(weights=(0.25, 0.75), key=1, changes=(Change(first_block=2, weights=(0.0, 1.0)),))
    given = mixture.given_before(0, 2)
    assert given == mixture.given_before(0, 10**6) == 2 * BLOCK // 4
    own = np.asarray([given - 1, given, 10**12], dtype=np.uint64)
    found = mixture.position_of(np.zeros(3, dtype=np.uint64), own)
    assert BLOCK <= found[0] < 2 * BLOCK
    assert found[1:].tolist() == [-1, -1]


def test_an_order_says_where_its_weights_change_also_behind_what_is_skipped() -> None:
    changes = (Change(first_block=1, weights=(1.0, 0.0)), Change(first_block=2, weights=(0.0, 1.0)))
    order = Order(manifest_digest="", seed=0, mixture=Mixture(weights=(0.0, 1.0), key=0, changes=changes), sources=())
    assert order.changes() == [BLOCK, 2 * BLOCK]
    order = order.skipping(10, 30).skipping(BLOCK - 100, 300)  # the second window holds the first change
    assert order.changes() == [BLOCK - 100, 2 * BLOCK - 330]
    places = order.places(np.asarray([position - past for position in order.changes() for past in (1, 0)]))
    sources = order.mixture.locate(places.astype(np.uint64))[0].tolist()
    assert sources == [1, 0, 0, 1]


def test_an_order_with_changing_weights_finds_each_visit_and_no_other() -> None:
    """All positions of three blocks, with a window left out: each is where its sequence's epoch is said to stand."""
    changes = (Change(first_block=1, weights=(1.0, 0.0)), Change(first_block=2, weights=(0.2, 0.8)))
    plain = an_order()
    order = replace(plain, mixture=replace(plain.mixture, changes=changes)).skipping(BLOCK - 100, 300)
    position = np.arange(3 * BLOCK - 300)
    ids, epochs = order.locate(position), order.epoch_of(position)
    assert (ids.source[BLOCK - 100 : 2 * BLOCK - 300] == 0).all()
    for source in (0, 1):
        for epoch in np.unique(epochs[ids.source == source]).tolist():
            here = (ids.source == source) & (epochs == epoch)
            some = SequenceIds(source=ids.source[here], shard=ids.shard[here], row=ids.row[here])
            assert (order.positions_of(some, epoch) == position[here]).all()
            assert order.epochs_before(source, len(position)) > epoch
    assert order.epochs_before(1, BLOCK) == order.epochs_before(1, 2 * BLOCK - 300) == -(-2867 // 900)


@given(
    micro=st.integers(1, 4),
    accumulation=st.integers(1, 4),
    world=st.sampled_from([1, 2, 3, 8]),
    first=st.integers(0, 10**12),
)
def test_every_world_reads_the_same_global_batch(micro: int, accumulation: int, world: int, first: int) -> None:
    positions = range(first, first + micro * accumulation * world)
    parts = [rank_positions(positions, rank, world, micro).reshape(-1) for rank in range(world)]
    assert sorted(np.concatenate(parts)) == list(positions)


def an_order(seed: int = 0, manifest: str = "m") -> Order:
    sources = tuple(
        SourceOrder(num_sequences=n, sequences_per_shard=64, key=key_of(seed, at)) for at, n in enumerate((500, 900))
    )
    return Order(manifest_digest=manifest, seed=seed, mixture=Mixture(weights=(0.3, 0.7), key=seed), sources=sources)


def test_batch_digest_tells_steps_seeds_and_corpora_apart() -> None:
    digests = {
        an_order(seed, manifest).batch_digest(range(first, first + 32))
        for seed in (0, 1)
        for manifest in "mn"
        for first in range(0, 640, 32)
    }
    assert len(digests) == 80
    assert an_order().batch_digest(range(96, 128)) == an_order().batch_digest(range(96, 128))


@settings(deadline=None)
@given(sequences=st.integers(1, 400), per_shard=st.integers(1, 60), seed=st.integers(0, 2**32), epoch=st.integers(0, 9))
def test_a_source_finds_the_position_of_each_sequence(sequences: int, per_shard: int, seed: int, epoch: int) -> None:
    order = SourceOrder(num_sequences=sequences, sequences_per_shard=per_shard, key=key_of(seed))
    position = np.arange(epoch * sequences, (epoch + 1) * sequences, dtype=np.uint64)
    assert (order.position_of(*order.locate(position), epoch) == position).all()


@settings(deadline=None)
@given(
    sequences=st.integers(1, 300),
    per_shard=st.integers(1, 60),
    seed=st.integers(0, 2**32),
    first=st.integers(0, 2_000),
    count=st.integers(1, 6),
)
def test_the_shards_that_come_next_are_those_that_positions_lie_in(
    sequences: int, per_shard: int, seed: int, first: int, count: int
) -> None:
    order = SourceOrder(num_sequences=sequences, sequences_per_shard=per_shard, key=key_of(seed))
    position = np.arange(first, first + count * per_shard, dtype=np.uint64)
    visits = list(zip((position // np.uint64(sequences)).tolist(), order.locate(position)[0].tolist(), strict=True))
    in_turn = [shard for _, shard in dict.fromkeys(visits)]
    assert order.shards_from(first, count) == in_turn[:count]


def test_an_order_names_the_shards_of_all_sources_that_take_part() -> None:
    order = an_order()
    at, shard = zip(*order.shards_from(BLOCK + 7, 2), strict=True)
    assert at == (0, 1, 0, 1), "first those in use, then those that follow"
    ids = order.locate(np.arange(BLOCK, BLOCK + 200))
    assert {(int(s), int(one)) for s, one in zip(ids.source, ids.shard, strict=True)} >= set(
        zip(at[:2], shard[:2], strict=True)
    )
    first_only = replace(order, mixture=Mixture(weights=(1, 0), key=0))
    assert {source for source, _ in first_only.shards_from(0, 2)} == {0}


@settings(max_examples=20, deadline=None)
@given(weights=WEIGHTS, seed=st.integers(0, 2**32), first=st.integers(0, 2**44))
def test_a_mixture_finds_each_position_again(weights: tuple[float, ...], seed: int, first: int) -> None:
    mixture = Mixture(weights=weights, key=seed)
    position = np.arange(first, first + BLOCK, dtype=np.uint64)
    assert (mixture.position_of(*mixture.locate(position)) == position).all()


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.tuples(st.integers(1, 10**9), st.integers(1, 10**6)), min_size=1, max_size=4),
    positions=st.lists(st.integers(0, 2**44), min_size=1, max_size=5),
)
def test_an_order_finds_each_position_again(seed: int, sizes: list[tuple[int, int]], positions: list[int]) -> None:
    """Also at sizes nobody could list: where a sequence is visited is as direct as what a position holds."""
    sources = tuple(
        SourceOrder(num_sequences=size, sequences_per_shard=per_shard, key=key_of(seed, at))
        for at, (size, per_shard) in enumerate(sizes)
    )
    mixture = Mixture(weights=tuple(range(1, len(sizes) + 1)), key=seed)
    order = Order(manifest_digest="m", seed=seed, mixture=mixture, sources=sources)
    for position in positions:
        at = np.asarray([position])
        ids, epoch = order.locate(at), int(order.epoch_of(at)[0])
        assert order.positions_of(ids, epoch).tolist() == [position]
        assert epoch < order.epochs_before(int(ids.source[0]), position + 1)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sequences=st.integers(1, 2**48),
    per_shard=st.integers(1, 2**24),
    epoch=st.integers(0, 100),
    at=st.floats(0, 1, exclude_max=True),
)
def test_an_epoch_is_a_permutation_at_sizes_nobody_could_list(
    seed: int, sequences: int, per_shard: int, epoch: int, at: float
) -> None:
    """Both ways round: every position has a sequence of its own, and every sequence a position in the epoch."""
    order = SourceOrder(num_sequences=sequences, sequences_per_shard=per_shard, key=key_of(seed))
    number = np.asarray([int(at * sequences)], dtype=np.uint64)
    position = number + np.uint64(epoch * sequences)
    assert order.position_of(*order.locate(position), epoch) == position
    shard, row = np.divmod(number, np.uint64(per_shard))
    visited = order.position_of(shard, row, epoch)
    assert epoch * sequences <= visited[0] < (epoch + 1) * sequences
    assert [part.tolist() for part in order.locate(visited)] == [shard.tolist(), row.tolist()]


def test_the_order_itself_never_changes() -> None:
    """A golden value: if this fails, resumed runs would see other data. Raise ORDER_VERSION and change it knowingly."""
    ids = an_order().locate(np.arange(6))
    assert [ids.source.tolist(), ids.shard.tolist(), ids.row.tolist()] == [
        [1, 0, 0, 0, 0, 1],
        [4, 2, 5, 2, 0, 9],
        [24, 9, 3, 7, 13, 11],
    ]


def test_no_array_at_a_trillion_tokens() -> None:
    """10^12 tokens over 100,000 ranks: a rank's share of a step is found directly, whatever came before."""
    sources = (SourceOrder(num_sequences=10**12 // 2048, sequences_per_shard=60_000, key=key_of(1)),)
    order = Order(manifest_digest="m", seed=0, mixture=Mixture(weights=(1.0,), key=0), sources=sources)
    tracemalloc.start()
    try:
        ids = order.locate(rank_positions(range(4_000 * 100_000, 4_001 * 100_000), 99_999, 100_000, 1).reshape(-1))
        most_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ids.shard.shape == (1,)
    assert 0 <= ids.row[0] < 60_000
    assert most_bytes < 1_000_000, "an array of a step's positions would be 800,000, one of the data's many more"


@pytest.mark.parametrize("batch", [30, 33])
def test_a_batch_that_does_not_divide_is_an_invariant_here(batch: int) -> None:
    with pytest.raises(AssertionError):
        rank_positions(range(batch), 0, 2, 4)


SKIPS = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 40)), max_size=6)


@given(skips=SKIPS)
def test_what_is_skipped_is_left_out_once_and_the_rest_moves_up(skips: list[tuple[int, int]]) -> None:
    """Against a plain list: each skip deletes a slice of what the skips before it have left."""
    order, left = an_order(), list(range(2000))
    for first, count in skips:
        order = order.skipping(first, count)
        del left[first : first + count]
    positions = np.arange(1000)
    assert order.places(positions).tolist() == left[:1000]
    assert (order.positions_at(order.places(positions)) == positions).all()
    gone = sorted(set(range(1000)) - set(left))
    assert (order.positions_at(np.asarray(gone, dtype=np.int64)) == -1).all()
    ends = [(window.first, window.first + window.count) for window in order.skipped]
    assert all(before[1] < after[0] for before, after in pairwise(ends)), "ascending, and none touches another"


@given(skips=SKIPS, step=st.integers(0, 60))
def test_a_checkpoints_position_tells_the_skips_before_it_and_no_others(
    skips: list[tuple[int, int]], step: int
) -> None:
    """So a checkpoint made before a skip fits the order that has it, and one made after it fits no other."""
    order = an_order()
    for first, count in skips:
        trained = order.position(8 * step)
        order = order.skipping(8 * step + first, count)
        assert order.position(8 * step) == trained
        assert order.position(8 * step + first + 1) != an_order().position(8 * step + first + 1)


def test_digests_and_the_inverse_follow_a_skip() -> None:
    order = an_order()
    shifted = order.skipping(5 * 8, 2 * 8)
    steps = [range(first, first + 8) for first in range(0, 160, 8)]
    digests = [order.batch_digest(step) for step in steps]
    assert [shifted.batch_digest(step) for step in steps[:18]] == digests[:5] + digests[7:]
    for position in range(30, 100):
        at = np.asarray([position])
        found = shifted.positions_of(order.locate(at), int(order.epoch_of(at)[0]))
        assert found == (position if position < 40 else -1 if position < 56 else position - 16)
    assert (shifted.epoch_of(np.arange(40, 84)) == order.epoch_of(np.arange(56, 100))).all()
