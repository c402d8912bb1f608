"""Batches that grow: gradients are means over the whole batch at every ZeRO stage, and a resume behind any stage goes on
bit by bit, with the same batches in every world."""

import json
from pathlib import Path

import pytest

from tests.train.small_runs import start_script


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_torch_alone_at_every_stage(tmp_path: Path) -> None:
    """Each step's loss shows the updates before it, so a step taken too early or averaged wrongly shows."""
    out = tmp_path / "figures.json"
    process = start_script(Path(__file__).with_name("growing_batches.py"), out, ranks=2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    figures = json.loads(out.read_text())
    expected = figures.pop("torch")
    assert len(figures) == 4
    for name, found in figures.items():
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4), name
