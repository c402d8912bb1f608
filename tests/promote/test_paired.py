import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.promote.paired import NUM_RESAMPLES, paired_test, smallest_p_value

gains = st.lists(st.integers(-1000, 1000).map(lambda eighths: eighths / 8), min_size=1, max_size=10)


def exact_p_value(values: list[float]) -> float:
    """By trying all 2^n signs."""
    sums = [
        sum(s * v for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    return sum(total >= sum(values) for total in sums) / len(sums)


@settings(max_examples=60, deadline=None)
@given(gains, st.text(max_size=5))
def test_agrees_with_all_sign_flips(values: list[float], seed: str) -> None:
    exact = exact_p_value(values)
    error = math.sqrt(exact * (1 - exact) / NUM_RESAMPLES)
    assert paired_test(values, 0.05, seed).p_value == pytest.approx(exact, abs=5 * error + 2e-5)


@settings(max_examples=60, deadline=None)
@given(gains)
def test_hoeffding_is_never_below_the_exact_p_value(values: list[float]) -> None:
    bound = paired_test(values, 1e-9, "")
    assert bound.method == "hoeffding"
    assert bound.p_value >= exact_p_value(values) * (1 - 1e-5)


def test_same_seed_same_figure() -> None:
    """A replay on another machine must find this very number."""
    values = [(k * k * 37 % 201) - 80.0 for k in range(50)]
    assert paired_test(values, 0.05, "seed").p_value == 0.0458
    assert paired_test(values, 0.05, "other").p_value != 0.0458


def test_method_follows_from_level_and_size_alone() -> None:
    assert paired_test([1.0], 1e-4, "").method == "sign_flips"
    assert paired_test([1.0], 0.9e-4, "").method == "hoeffding"
    assert paired_test([1.0] * 100_001, 0.05, "").method == "hoeffding"


def test_all_better_reaches_the_smallest_p_value() -> None:
    assert paired_test([3.0] * 6, 0.05, "x").p_value == pytest.approx(smallest_p_value(6), rel=0.2)
