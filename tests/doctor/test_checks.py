"""The doctor's verdicts: green on what is in order, red on each fault, which is named, and nothing in between by chance."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import OptimizerConfig, TrainConfig, ZeroConfig
from pipeline.doctor import checks
from pipeline.doctor.checks import Check, Difference, RoundTrip, Timed, Traffic
from pipeline.doctor.report import Report, record_of, render, unfinished

TRAIN = TrainConfig(
    tokens=1, global_batch_size=8, micro_batch_size=2, optimizer=OptimizerConfig(lr=1e-3), precision="fp32"
)
SAME = {"torch": "2.13.0", "deepspeed": "0.19.8"}
FINE = Difference(worst=1e-7, tensor="blocks.0.mlp.up.weight", norm=1e-7, excess=0.0, weights="w")
TRIP = RoundTrip(saved="a", loaded="a", went_on="b", resumed="b")


def test_fewer_ranks_than_the_config_asks_for_are_to_be_looked_at() -> None:
    assert checks.check_ranks(2, 2, ["a", "b"]).result == "ok"
    assert checks.check_ranks(1, 2, ["a"]).result == "warn"


def test_a_mix_of_versions_is_red_and_names_package_and_ranks() -> None:
    assert checks.check_versions([SAME, SAME]).result == "ok"
    found = checks.check_versions([SAME, SAME, SAME | {"torch": "2.12.0"}, {"torch": "2.13.0"}])
    assert found.result == "fail"
    assert "torch 2.12.0 on rank 2, elsewhere 2.13.0" in found.figure
    assert "deepspeed none on rank 3" in found.figure


@pytest.mark.parametrize(
    ("devices", "visible", "asked", "result", "word"),
    [
        (["H100", "H100"], [2, 2], 2, "ok", ""),
        (["cpu", "cpu"], [0, 0], 0, "ok", ""),
        (["H100", "cpu"], [2, 0], 2, "fail", "nvidia-smi"),
        (["H100", "A100"], [2, 2], 2, "warn", "slowest"),
        (["H100", "H100"], [8, 8], 8, "warn", "6 of 8 GPUs"),
    ],
)
def test_devices(devices: list[str], visible: list[int], asked: int, result: str, word: str) -> None:
    found = checks.check_devices(devices, visible, per_node=2, asked=asked)
    assert found.result == result
    assert word in found.advice


@given(st.integers(1, 10**12), st.lists(st.integers(0, 10**12), min_size=1))
def test_memory_is_red_exactly_where_a_rank_is_short(needed: int, free: list[int]) -> None:
    found = checks.check_memory(needed, free, "")
    assert (found.result == "fail") == (min(free) < needed)
    assert found.values["ranks"] == [rank for rank, size in enumerate(free) if size < needed]


def test_clocks() -> None:
    assert checks.check_clocks([0.0, 0.9]).result == "ok"
    for offsets_s, rank in (([0.0, 0.001, -7.0], 2), ([0.0, 30.0], 1), ([0.0, 5.0, 5.0], 0)):
        found = checks.check_clocks(offsets_s)
        assert (found.result, found.values["rank"]) == ("fail", rank)


def test_a_rank_that_does_not_see_the_workspace_is_named() -> None:
    assert checks.check_notice([0.1, 0.2]).result == "ok"
    found = checks.check_notice([0.1, None])
    assert found.result == "fail"
    assert "rank 1" in found.figure


def test_disk_space_is_for_the_kept_checkpoints_and_one_more() -> None:
    assert checks.check_disk_space(400, 100, kept=3).result == "ok"
    assert checks.check_disk_space(399, 100, kept=3).result == "fail"


def test_disk_speed_is_held_against_the_time_between_checkpoints() -> None:
    def found(between_s: float | None) -> Check:
        return checks.check_disk_speed(10**9, [0.5, 1.0], 10 * 10**9, between_s)  # 1 GB/s: 10 s a checkpoint

    assert [found(one).result for one in (None, 10.0, 9.0, 2.0)] == ["ok", "ok", "warn", "fail"]
    assert found(1.0).values["slowest_rank"] == 1


def test_bus_bandwidth_is_nccl_tests() -> None:
    """doc/PERFORMANCE.md of nccl-tests: 2(n-1)/n for all-reduce, (n-1)/n for the others."""
    assert checks.bus_bandwidth("all-reduce", 1000, 2.0, 4) == 750.0
    assert checks.bus_bandwidth("reduce-scatter", 1000, 2.0, 4) == 375.0
    assert checks.bus_bandwidth("all-gather", 1000, 2.0, 4) == 375.0
    assert checks.bus_bandwidth("all-to-all", 1000, 2.0, 2) == 250.0


@pytest.mark.parametrize(
    ("stage", "seconds"),
    [(0, 2 * 15 / 2), (1, 15 / 1.5 + 15 / 3), (2, 2 * 15 / 1.5 + 15 / 3), (3, 2 * (15 / 1.5 + 2 * 15 / 3))],
)
def test_a_step_moves_what_the_zero_paper_says(stage: int, seconds: float) -> None:
    """20 bytes over 4 ranks, each moves 15 of them, in two micro-batches: from stage 2 on each is reduced by itself,
    and at stage 3 weights are gathered twice for each."""
    rates = {"all-reduce": 2.0, "reduce-scatter": 1.5, "all-gather": 3.0}
    assert checks.step_traffic_s(rates, stage, 20, 20, 2, 4) == pytest.approx(seconds)


def calls(seconds: float) -> list[Timed]:
    names = ("all-reduce", "reduce-scatter", "all-gather")
    return [Timed(collective=name, size_bytes=1000, seconds=seconds, ranks=2) for name in names]


def test_bandwidth_is_held_against_the_computing_of_a_step() -> None:
    def found(compute_s: float) -> Check:
        traffic = Traffic(stage=0, gradient_bytes=1000, weight_bytes=1000, reductions=1, compute_s=compute_s)
        return checks.check_bandwidth([calls(1.0), calls(3.0)], traffic)

    assert [found(one).result for one in (2.0, 1.0, 0.4)] == ["ok", "warn", "fail"]
    assert found(2.0).values["bus_bytes_per_s"]["all-reduce"] == {"1000": 500.0}, "by the mean of the ranks"
    assert checks.check_bandwidth([calls(1.0), calls(3.0)], None).result == "ok"


def test_what_ranks_that_share_sequences_exchange_is_part_of_a_step() -> None:
    """Four ranks, of which each two are peers: of 3,000 bytes a half goes to the other one, at 250 bytes/s."""
    exchange = Timed(collective="all-to-all", size_bytes=1000, seconds=2.0, ranks=2)
    alone = Traffic(stage=0, gradient_bytes=1000, weight_bytes=1000, reductions=1, compute_s=100.0)
    shared = replace(alone, exchanged_bytes=3000, peers=2)
    ranks = [[exchange, *calls(1.0)]] * 4
    moving_s = [checks.check_bandwidth(ranks, traffic).values["moving_s"] for traffic in (alone, shared)]
    assert moving_s[1] - moving_s[0] == pytest.approx(1500 / 250)


def test_the_rank_that_the_others_wait_for_is_named() -> None:
    assert checks.check_slowest([1.0, 1.1], [10.0, 9.0]).result == "ok"
    late = checks.check_slowest([1.0, 1.0, 0.2], [10.0, 10.0, 10.0])
    assert (late.result, late.values["rank"]) == ("warn", 2)
    weak = checks.check_slowest([1.0, 1.0, 1.0], [10.0, 5.0, 10.0])
    assert (weak.result, weak.values["rank"]) == ("warn", 1)
    assert checks.check_slowest([0.0], [10.0]).result == "ok"


def test_random_streams_are_distinct_and_restored() -> None:
    own = [{"cpu": "a"}, {"cpu": "b"}, {"cpu": "c"}]
    assert checks.check_streams(own, own).result == "ok"
    same = checks.check_streams([{"cpu": "a"}] * 3, [{"cpu": "a"}] * 3)
    assert same.result == "fail"
    assert "ranks 0, 1, 2 share one cpu stream" in same.figure
    strayed = checks.check_streams(own, [own[0], own[0], own[2]])  # as Megatron-LM's ranks
    assert strayed.values == {"shared": [0, 1], "strayed": [1]}


def test_gradients_are_red_beyond_the_bound_and_the_rank_is_named() -> None:
    bound = 1e-5
    assert checks.check_gradients([FINE, FINE], bound).result == "ok"
    all_off = [replace(FINE, worst=0.3, excess=0.1), replace(FINE, worst=0.2, excess=0.5)]
    found = checks.check_gradients(all_off, bound)
    assert found.result == "fail"
    assert "blocks.0.mlp.up.weight" in found.figure
    assert "rank 1's share, counted 1.50 times" in found.advice
    assert "only what rank 1 holds" in checks.check_gradients([FINE, replace(FINE, worst=0.2)], bound).advice
    assert "norm" in checks.check_gradients([FINE, replace(FINE, norm=0.1)], bound).figure
    assert (
        "rank 2 left with other weights"
        in checks.check_gradients([FINE, FINE, replace(FINE, weights="x")], bound).figure
    )
    assert checks.check_gradients([replace(FINE, norm=None)], bound).result == "ok"
    shared = checks.check_gradients([replace(one, excess=None) for one in all_off], bound)
    assert shared.advice.startswith("see whether it is right with train.sequence_parallel=1; ")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradients_that_are_not_finite_are_red(value: float) -> None:
    for one in (replace(FINE, worst=value), replace(FINE, norm=value)):
        assert checks.check_gradients([FINE, one], 1e-5).result == "fail"


@given(st.sampled_from(["fp32", "bf16"]), st.integers(1, 64), st.integers(1, 4096))
def test_the_gradients_bound_grows_with_what_is_added_up_and_with_the_rounding(
    precision: Any, micro_batches: int, length: int
) -> None:
    train = replace(TRAIN, precision=precision, global_batch_size=2 * micro_batches)
    bound = checks.gradient_bound(train, 2, length)
    assert bound >= 4 * 2.0 ** (-24 if precision == "fp32" else -8)
    assert bound <= checks.gradient_bound(replace(train, global_batch_size=4 * micro_batches), 2, length)
    assert bound < checks.gradient_bound(
        replace(train, zero=ZeroConfig(stage=3, zero_quantized_gradients=True)), 2, length
    )


def test_a_state_that_comes_back_changed_or_goes_on_differently_is_red() -> None:
    assert checks.check_round_trip([TRIP, TRIP], 1).result == "ok"
    lost = checks.check_round_trip([TRIP, replace(TRIP, loaded="x")], 1)
    assert (lost.result, lost.values["lost"]) == ("fail", [1])
    apart = checks.check_round_trip([TRIP, replace(TRIP, resumed="x")], 1)
    assert (apart.result, apart.values["apart"]) == ("fail", [1])


def test_an_error_is_the_checks_own_finding() -> None:
    found = checks.broken("gradients", {3: "OutOfMemoryError: no room", 1: "RuntimeError: gone"})
    assert found.result == "fail"
    assert "ranks 1, 3: RuntimeError: gone" in found.figure


def test_in_a_hang_the_odd_rank_comes_first() -> None:
    said = checks.standing(["barrier (a.py:1)", "barrier (a.py:1)", "sleep (b.py:2)", None, None, None])
    assert said == "rank 2 in sleep (b.py:2), ranks 0, 1 in barrier (a.py:1), ranks 3, 4, 5 gone"


def test_the_report_says_at_any_instant_where_the_examination_stands() -> None:
    done = [checks.check_ranks(2, 2, ["a", "a"])]
    assert unfinished(done, [], "") == tuple(done)
    standing = unfinished(done, ["clocks", "gradients"], "did not end")
    assert [(one.name, one.result) for one in standing] == [("ranks", "ok"), ("clocks", "fail"), ("gradients", "skip")]
    report = Report(run="small", setting="2 ranks", checks=standing, seconds=1.0)
    assert report.failed == ("clocks",)
    assert record_of(report)["passed"] is False
    text = render(report)
    assert "did not end" in text
    assert "1 of 3 checks failed" in text
