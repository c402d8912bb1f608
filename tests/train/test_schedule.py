"""Learning-rate schedules, as functions of tokens."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ScheduleConfig
from pipeline.train.schedule import Progress, learning_rate

KINDS = ("wsd", "cosine", "linear")
STEP_TOKENS = 4096


def rates_of(total: int, peak: float, schedule: ScheduleConfig, step_tokens: int = STEP_TOKENS) -> list[float]:
    return [rate_at(step * step_tokens, step_tokens, total, peak, schedule) for step in range(total)]


def rate_at(seen: int, step: int, total_steps: int, peak: float, schedule: ScheduleConfig) -> float:
    """In a run of equal steps of `step` tokens."""
    at = Progress(seen=seen, step=step, warmup=schedule.warmup_steps * step, total=total_steps * step)
    return learning_rate(at, peak, schedule)


@given(
    kind=st.sampled_from(KINDS),
    total=st.integers(1, 500),
    warmup=st.integers(0, 500),
    decay=st.floats(0, 1),
    floor=st.floats(0, 1),
)
def test_never_above_the_peak_nor_below_the_floor_after_warmup(
    kind: str, total: int, warmup: int, decay: float, floor: float
) -> None:
    warmup = min(warmup, total)
    schedule = ScheduleConfig(kind=kind, warmup_steps=warmup, decay_fraction=decay, final_lr_fraction=floor)  # type: ignore[arg-type]
    rates = rates_of(total, 1.0, schedule)
    assert all(0 < rate <= 1.0 + 1e-12 for rate in rates if floor > 0)
    assert all(rate >= floor - 1e-12 for rate in rates[warmup:])
    assert rates[:warmup] == sorted(rates[:warmup]) or kind == "wsd"
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_wsd_warms_up_holds_and_decays_to_the_last_step() -> None:
    schedule = ScheduleConfig(kind="wsd", warmup_steps=4, decay_fraction=0.5)
    rates = rates_of(20, 2.0, schedule)
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[10] == 2.0
    assert rates[19] == pytest.approx(0.2)


def test_cosine_ends_at_its_floor() -> None:
    schedule = ScheduleConfig(kind="cosine", warmup_steps=2, final_lr_fraction=0.1)
    rates = rates_of(100, 1.0, schedule)
    assert rates[2] == pytest.approx(1.0)
    assert rates[51] == pytest.approx(0.55)
    assert rate_at(100 * STEP_TOKENS, STEP_TOKENS, 100, 1.0, schedule) == pytest.approx(0.1)


def test_linear_falls_by_the_same_amount_each_step() -> None:
    schedule = ScheduleConfig(kind="linear", warmup_steps=2, final_lr_fraction=0.2)
    rates = rates_of(10, 1.0, schedule)
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert [before - after for before, after in pairwise(rates[2:])] == pytest.approx([0.1] * 7)


@given(kind=st.sampled_from(KINDS), at=st.integers(0, 199), factor=st.sampled_from([2, 4, 8]))
def test_the_rate_at_some_tokens_does_not_depend_on_the_batch(kind: str, at: int, factor: int) -> None:
    """After warm-up; a step of twice the tokens begins where every second one of the small ones does."""
    small = ScheduleConfig(kind=kind, warmup_steps=8 * 2)  # type: ignore[arg-type]
    large = ScheduleConfig(kind=kind, warmup_steps=8 * 2 // factor)  # type: ignore[arg-type]
    seen = max(at // factor, 16 // factor) * factor * 64
    assert rate_at(seen, 64, 200 * factor, 1.0, small) == pytest.approx(rate_at(seen, 64 * factor, 200, 1.0, large))
