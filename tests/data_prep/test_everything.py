"""A build with every stage that there is: the same bytes alone, over processes and over a Ray."""

from pathlib import Path

import pytest

from data_prep.build import prepare
from data_prep.manifest import Manifest
from tests.data_prep.corpora import files_of
from tests.data_prep.drill import everything, write_documents

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_documents(folder, 800)
    return folder


@pytest.fixture(scope="module")
def alone(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    return prepare(everything(inputs), tmp_path_factory.mktemp("alone"), "demo", workers=0, keep_dropped=True)


def test_every_stage_has_something_to_do(alone: tuple[Path, Manifest]) -> None:
    prose, code = alone[1].sources
    for reason in ("exact_duplicate", "near_duplicate", "mean_word_length", "contaminated"):
        assert prose.dropped.get(reason) or code.dropped.get(reason), f"{reason}: {prose.dropped}, {code.dropped}"
    assert prose.pii["email"]
    assert prose.padding_tokens
    assert prose.documents_heldout


@pytest.mark.parametrize("over", ["processes", "ray"])
def test_workers_make_the_same_bytes(
    inputs: Path, alone: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over: str
) -> None:
    if over == "ray":
        monkeypatch.setenv("RAY_ADDRESS", "local")
    folder, manifest = prepare(everything(inputs), tmp_path, "demo", workers=3, keep_dropped=True)
    assert manifest == alone[1]
    assert files_of(folder) == files_of(alone[0])
