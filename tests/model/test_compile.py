"""A compiled model computes what the model computes."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import ModelConfig
from pipeline.model.decoder import build

EOT, VOCAB = 0, 50
SHAPE = ModelConfig(layers=2, width=32, heads=4, kv_heads=2, qk_norm=True)


def agree(options: dict[str, Any]) -> None:
    """Loss and gradients, compiled and not, and that there was one graph without breaks."""
    tokens = torch.randint(0, VOCAB, (2, 32), generator=torch.Generator().manual_seed(0))
    plain, compiled = build(SHAPE, VOCAB, EOT, seed=0), build(replace(SHAPE, **options), VOCAB, EOT, seed=0)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found, expected = compiled(tokens, loss=True), plain(tokens, loss=True)
    found.total.backward()
    expected.total.backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "one for each block alike, or for all at once"
    assert not torch._dynamo.utils.counters["graph_break"]
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


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
@pytest.mark.filterwarnings("ignore")
def test_what_a_compiler_makes_of_it_gives_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with torch._inductor.config.patch(compile_threads=1):
        agree({"compile": "block"})


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
