"""Learning-rate schedules, as functions of the step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ScheduleConfig
from pipeline.train.schedule import learning_rate

KINDS = st.sampled_from(["wsd", "cosine"])


@given(kind=KINDS, total=st.integers(1, 500), warmup=st.integers(0, 500), decay=st.floats(0, 1), floor=st.floats(0, 1))
def test_never_above_the_peak_nor_below_the_floor_after_warmup(
    kind: str, total: int, warmup: int, decay: float, floor: float
) -> None:
    warmup = min(warmup, total)
    schedule = ScheduleConfig(kind=kind, warmup_steps=warmup, decay_fraction=decay, final_lr_fraction=floor)  # type: ignore[arg-type]
    rates = [learning_rate(step, total, 1.0, schedule) for step in range(total)]
    assert all(0 < rate <= 1.0 + 1e-12 for rate in rates if floor > 0)
    assert all(rate >= floor - 1e-12 for rate in rates[warmup:])
    assert rates[:warmup] == sorted(rates[:warmup]) or kind == "wsd"
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_wsd_warms_up_holds_and_decays_to_the_last_step() -> None:
    schedule = ScheduleConfig(kind="wsd", warmup_steps=4, decay_fraction=0.5)
    rates = [learning_rate(step, 20, 2.0, schedule) for step in range(20)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[10] == 2.0
    assert rates[19] == pytest.approx(0.2)


def test_cosine_ends_at_its_floor() -> None:
    schedule = ScheduleConfig(kind="cosine", warmup_steps=2, final_lr_fraction=0.1)
    assert learning_rate(2, 100, 1.0, schedule) == pytest.approx(1.0)
    assert learning_rate(51, 100, 1.0, schedule) == pytest.approx(0.55)
    assert learning_rate(100, 100, 1.0, schedule) == pytest.approx(0.1)
