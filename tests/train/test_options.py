"""The ways to compute a model agree at ZeRO stage 3 too, where a weight is whole only while its module is called."""

import json
from pathlib import Path

import pytest

from tests.train.small_runs import start_script


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[float]]]:
    out = tmp_path_factory.mktemp("stage3") / "figures.json"
    process = start_script(Path(__file__).with_name("stage3_options.py"), out, ranks=2)
    written, _ = process.communicate(timeout=300)
    assert process.returncode == 0, written
    found: dict[str, list[list[float]]] = json.loads(out.read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "same_as"),
    [
        ("chunks", "plain"),
        ("blocks again", "plain"),
        ("attention again, chunks", "plain"),
        ("tied, chunks", "tied"),
    ],
)
def test_losses_and_gradient_norms_are_those_of_the_plain_way(
    figures: dict[str, list[list[float]]], way: str, same_as: str
) -> None:
    """Three steps, so that a wrong gradient shows in the loss of the next."""
    for found, expected in zip(figures[way], figures[same_as], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    assert figures["plain"] != figures["tied"]
    assert all(z_loss > 0 for _, z_loss, _ in figures[way])
