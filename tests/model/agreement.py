"""A model that is computed in another way computes the same."""

from dataclasses import replace
from typing import Any

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
