"""Every benchmark can be started: what none of the tests imports is soon about code that is gone."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks
from tests.warm import ROOT

IN_A_PEERS_ENVIRONMENT = {"datatrove_side", "streaming_side", "trainer_side"}
NAMES = sorted({path.stem for path in Path(benchmarks.__file__).parent.glob("[a-z]*.py")} - IN_A_PEERS_ENVIRONMENT)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_can_be_imported(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize(
    "words", [("order", "--tokens", "1e10", "--ranks", "1000"), ("trace", "--shards", "64", "--cells-per-shard", "2")]
)
def test_a_small_one_ends_in_a_record(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{words[0]}", *words[1:], "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["benchmark"] == words[0]
    assert record["ratios"].keys() >= record["goals"].keys() > set()
