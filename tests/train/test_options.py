"""The ways to compute a model agree at ZeRO stage 3 too, where a weight is whole only while its module is called."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.train.small_runs import start_script


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("stage3") / "figures.json"
    process = start_script(Path(__file__).with_name("stage3_options.py"), out, ranks=2)
    written, _ = process.communicate(timeout=300)
    assert process.returncode == 0, written
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "same_as"),
    [
        ("chunks", "plain"),
        ("blocks again", "plain"),
        ("attention again, chunks", "plain"),
        ("tied, chunks", "tied"),
        ("compiled", "plain"),
        ("compiled, blocks again", "plain"),
        ("compiled, attention again, chunks", "plain"),
    ],
)
def test_losses_and_gradient_norms_are_those_of_the_plain_way(found: Any, way: str, same_as: str) -> None:
    """Three steps, so that a wrong gradient shows in the loss of the next."""
    figures = found["figures"]
    for one, expected in zip(figures[way], figures[same_as], strict=True):
        assert one == pytest.approx(expected, rel=1e-4)
    assert figures["plain"] != figures["tied"]
    assert all(z_loss > 0 for _, z_loss, _ in figures[way])


@pytest.mark.slow
def test_blocks_are_one_graph_without_a_break(found: Any) -> None:
    """All blocks together, with a mask and without one, and one of the loss. Not the hooks that gather weights."""
    traced = {way: counts for way, counts in found["traced"].items() if counts != [0, 0]}
    assert traced == {
        "compiled": [3, 0],
        "compiled, blocks again": [3, 0],
        "compiled, attention again, chunks": [3, 0],
    }
