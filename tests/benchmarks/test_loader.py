"""The comparison of loaders compares something: each side hands out the same tokens."""

import numpy as np
import pytest

from benchmarks import loader

pytestmark = [  # webdataset leaves the closing of its files to the collector
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def toy_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "LENGTH", 64)
    monkeypatch.setattr(loader, "EPOCHS", 2)


def test_a_toy_run_has_its_ratios() -> None:
    ratios, speeds = loader.measure(1, rounds=1, with_streaming=False)
    assert set(ratios) == {"vs_webdataset", "vs_mmap"}
    assert set(speeds) == {"ours", "webdataset", "mmap"}


def test_sides_that_hand_out_other_tokens_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = loader.mapped
    monkeypatch.setattr(loader, "mapped", lambda rows: mapped(rows + np.uint16(1)))
    with pytest.raises(SystemExit, match="this compares nothing"):
        loader.measure(1, rounds=1, with_streaming=False)
