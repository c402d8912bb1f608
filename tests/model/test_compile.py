"""A compiled model computes what the model computes."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.model.decoder import build
from pipeline.model.loss import capped_sums
from tests.model.agreement import EOT, SHAPE, VOCAB, agree
from tests.train.small_runs import start_script


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
@pytest.mark.parametrize(
    ("options", "graphs"),
    [
        ({"compile": "block"}, 2),
        ({"compile": "model", "recompute": "attention"}, 2),
        ({"compile": "block", "loss_chunk_size": 32, "z_loss": 1e-3, "logit_soft_cap": 5.0}, 2),
        ({"compile": "block", "loss_chunk_size": 24}, 3),  # 64 positions: the last chunk is another graph
    ],
    ids=str,
)
def test_what_is_traced_is_graphs_of_the_same_numbers(
    options: dict[str, Any], graphs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced, forward and backward, but run without a compiler: that takes a minute."""
    traced_only(monkeypatch)
    agree(options, graphs=graphs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [
        {"compile": "block"},
        {"compile": "block", "recompute": "attention"},
        {"compile": "model", "recompute": "block"},
    ],
    ids=str,
)
def test_a_gpus_way_to_attend_is_traced_whole_too_and_other_documents_trace_nothing_anew(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    traced_only(monkeypatch)
    agree(options, graphs=3, batches=3, on_gpu=True)


def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: real(function, **how | {"backend": "aot_eager"}))


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
            if "forward" in vars(module)
        ]
        for how in ("none", "block", "model")
    }
    assert compiled == {"none": [], "block": ["blocks.0", "blocks.1"], "model": ["blocks"]}
    losses = [build(replace(SHAPE, compile=how), VOCAB, EOT, seed=0).output.sums for how in ("none", "block", "model")]
    assert [one is capped_sums for one in losses] == [True, False, False]
