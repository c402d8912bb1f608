"""Who is waited for: the slowest rank and by how much."""

import pytest
import torch

from cluster.world import World
from pipeline.train.stragglers import ALL_RANKS_EVERY, Stopwatch, of_rank, rank_figures


def test_the_slowest_rank_is_named_with_its_share() -> None:
    assert rank_figures([1.0, 1.1, 3.3, 0.9], 7) == {"slowest_rank": 2, "slowest_over_median": pytest.approx(3.143)}
    assert rank_figures([1.0], 7) == {}


def test_now_and_then_all_ranks_are_there() -> None:
    assert rank_figures([1.0, 2.0], ALL_RANKS_EVERY)["rank_s"] == [1.0, 2.0]
    assert "rank_s" not in rank_figures([1.0, 2.0], ALL_RANKS_EVERY + 1)


def test_the_sum_over_the_ranks_is_the_list_of_their_times() -> None:
    vectors = [
        of_rank(rank + 1.0, World(rank=rank, size=3, local_rank=0, local_size=1, master_addr="", master_port=1))
        for rank in range(3)
    ]
    assert [sum(column) for column in zip(*vectors, strict=True)] == [1.0, 2.0, 3.0]


def test_a_stopwatch_counts_what_it_runs_over_and_nothing_else() -> None:
    watch = Stopwatch(torch.device("cpu"))
    assert watch.seconds() == 0
    with watch.running():
        sum(range(10_000))
    first = watch.seconds()
    assert first > 0
    sum(range(10_000))
    assert watch.seconds() == first
    with watch.running():
        pass
    assert watch.seconds() > first
