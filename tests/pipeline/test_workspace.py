"""Names of checkpoints' folders: one for each step, and what is not one is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.workspace import step_name, step_of


@given(st.integers(0, 10**12))
def test_a_name_and_its_step_are_each_others(step: int) -> None:
    assert step_of(step_name(step)) == step


def test_names_sort_as_steps_do() -> None:
    assert [step_name(step) for step in (0, 500, 10**8)] == ["step-00000000", "step-00000500", "step-100000000"]


@pytest.mark.parametrize(
    "name",
    ["step-5", "step-000000005", "step-", "step-0000000x", "step-٠٠٠٠٠٠٠٥", "stop-00000005", "step-00000005.corrupt"],
)
def test_other_names_are_no_checkpoints(name: str) -> None:
    assert step_of(name) is None
