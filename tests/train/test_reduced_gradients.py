"""What the ranks' reduction leaves of bf16 gradients: the optimizer is fed their mean, to fp32's last digits."""

import json
from pathlib import Path

import pytest

from tests.train.reduced_gradients import WAYS
from tests.train.small_runs import start_script

LAST_DIGITS = 2e-7
"""A few roundings in fp32, 2^-24 each."""
ROUNDED = (5e-4, 5e-3)
"""One to some roundings to bf16, 2^-9 at most."""
IN_BF16_ANYWAY = ("stage 0", "muon, stage 0", "muon, stage 2")
"""DeepSpeed adds up in the model's own precision without sharding, and has Muon's momentum in it at stage 2."""

Errors = dict[str, dict[str, float]]


def found(folder: Path, ranks: int, *ways: str) -> Errors:
    out = folder / "errors.json"
    process = start_script(Path(__file__).with_name("reduced_gradients.py"), out, *ways, ranks=ranks)
    written, _ = process.communicate(timeout=300)
    assert process.returncode == 0, written
    errors: Errors = json.loads(out.read_text())
    return errors


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> Errors:
    return found(tmp_path_factory.mktemp("reduced"), 2)


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("way", WAYS)
def test_the_optimizer_is_fed_the_mean_of_the_gradients(errors: Errors, way: str, accumulation: int) -> None:
    one = errors[f"{way}, {accumulation}"]
    least, most = ROUNDED
    assert least < one["bf16"] < most
    if way in IN_BF16_ANYWAY:
        assert least < one["fp32"] < most
    else:
        assert one["fp32"] < LAST_DIGITS


@pytest.mark.slow
def test_a_number_of_ranks_that_bf16_cannot_divide_by_rounds_nothing_either(tmp_path: Path) -> None:
    ways = ("stage 1", "stage 2", "stage 3", "offloaded, stage 2")
    for errors in found(tmp_path, 3, *ways).values():
        assert errors["fp32"] < LAST_DIGITS
