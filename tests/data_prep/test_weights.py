"""Weights that change over a run: what holds when, and what is no weight."""

import math
import re

import pytest

from data_prep.weights import BLOCK, Mix, Weight, WeightStage, first_blocks, mean_weights, mixes, problem_of


def stages(*pairs: tuple[float, float]) -> tuple[WeightStage, ...]:
    return tuple(WeightStage(start=start, weight=weight) for start, weight in pairs)


def test_weights_stand_anew_wherever_one_of_them_changes() -> None:
    weights: list[Weight] = [0.7, stages((0, 0.3), (0.5, 0.1)), stages((0, 0.0), (0.9, 0.2))]
    assert mixes(weights) == (
        Mix(start=0.0, weights=(0.7, 0.3, 0.0)),
        Mix(start=0.5, weights=(0.7, 0.1, 0.0)),
        Mix(start=0.9, weights=(0.7, 0.1, 0.2)),
    )


def test_stages_begin_at_the_nearest_block() -> None:
    found = mixes([stages((0, 1.0), (0.24, 2.0), (0.26, 3.0)), 1.0])
    assert first_blocks(found, 10 * BLOCK) == [0, 2, 3]
    assert first_blocks(found, 2 * BLOCK) == [0, 0, 1]


def test_the_mean_weight_is_the_share_of_a_whole_run_and_a_constant_one_is_itself() -> None:
    assert mean_weights([0.1, 0.7]) == (0.1, 0.7)
    # A quarter of the run at 1 of 4, then at 3 of 6.
    found = mean_weights([stages((0, 1.0), (0.25, 3.0)), 3.0])
    assert found == pytest.approx((0.25 / 4 + 0.75 / 2, 0.25 * 3 / 4 + 0.75 / 2))
    assert math.fsum(found) == pytest.approx(1)


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ((1.0, 0.0), "sources.1.weight: 0.0 must be more than 0"),
        ((math.inf,), "sources.0.weight: inf must be more than 0, and finite"),
        ((math.nan,), "sources.0.weight: nan must be more than 0"),
        (((), 1.0), "sources.0.weight: has no stages"),
        ((1.0, stages((0.1, 1.0))), "sources.1.weight.0.start: 0.1 must be 0; for a source that comes later"),
        ((stages((0, 1.0), (0.5, 2.0), (0.5, 1.0)),), "sources.0.weight.2.start: 0.5 must be more than 0.5"),
        ((stages((0, 1.0), (1.0, 2.0)),), "sources.0.weight.1.start: 1.0 must be more than 0, where .* and below 1"),
        ((stages((0, 1.0), (math.nan, 2.0)),), "sources.0.weight.1.start: nan must be"),
        ((stages((0, 1.0), (0.5, -1.0)),), "sources.0.weight.1.weight: -1.0 must be 0 or more"),
        ((stages((0, 0.0), (0.5, 0.0)), 1.0), "sources.0.weight: 0 in every stage; leave the source out"),
        ((stages((0, 1.0), (0.5, 0.0)), stages((0, 1.0), (0.4, 0.0), (0.6, 1.0))), "from 0.5 of the run on every"),
    ],
)
def test_what_is_no_weight_is_one_line(weights: tuple[Weight, ...], problem: str) -> None:
    found = problem_of(weights)
    assert found is not None
    assert "\n" not in found
    assert re.search(problem, found), found


def test_what_is_one_has_no_problem() -> None:
    assert problem_of([0.5, stages((0, 0.0), (0.8, 2.0)), stages((0, 1.0), (0.8, 0.0))]) is None
