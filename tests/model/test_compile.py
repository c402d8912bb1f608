"""A compiled model computes what the model computes."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.model.decoder import build
from tests.model.agreement import EOT, SHAPE, VOCAB, agree
from tests.train.small_runs import start_script


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
@pytest.mark.parametrize("options", [{"compile": "block"}, {"compile": "model", "recompute": "attention"}], ids=str)
def test_what_is_traced_is_one_graph_of_the_same_numbers(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced, forward and backward, but run without a compiler: that takes a minute."""
    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: real(module, backend="aot_eager"))
    agree(options)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ to compile for a CPU")
def test_what_a_compiler_makes_of_it_gives_the_same_numbers_and_a_notice_is_heard_meanwhile(tmp_path: Path) -> None:
    process = start_script(Path(__file__).with_name("compile_small.py"), tmp_path, ranks=1)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    assert "told: SIGTERM" in output


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_compiled_unless_asked() -> None:
    compiled = {
        how: [
            name
            for name, module in build(replace(SHAPE, compile=how), VOCAB, EOT, seed=0).named_modules()
            if module._compiled_call_impl
        ]
        for how in ("none", "block", "model")
    }
    assert compiled == {"none": [], "block": ["blocks.0", "blocks.1"], "model": ["blocks"]}
