"""A model that is computed in another way computes the same."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from pipeline.config import ModelConfig
from pipeline.model import attention
from pipeline.model.decoder import build

EOT, VOCAB = 0, 50
SHAPE = ModelConfig(layers=2, width=32, heads=4, kv_heads=2, qk_norm=True)


def agree(options: dict[str, Any], *, graphs: int, batches: int = 1, on_gpu: bool = False) -> None:
    """Loss and gradients, compiled and not, and that there were no more graphs, and none with a break: one for each
    block alike or for all at once, and one for the loss. on_gpu: the compiled one attends as on a GPU, with a mask made
    as there, a third graph."""
    config = replace(SHAPE, **options)
    as_is = replace(config, compile="none", recompute="none", loss_chunk_size=None)
    plain, compiled = (build(one, VOCAB, EOT, seed=0) for one in (as_is, config))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    attention._compiled.cache_clear()
    for seed in range(batches):
        tokens = torch.randint(0, VOCAB, (2, 32), generator=torch.Generator().manual_seed(seed))
        plain.zero_grad()
        compiled.zero_grad()
        expected = plain(tokens, loss=True)
        with as_on_gpu() if on_gpu else nullcontext():
            found = compiled(tokens, loss=True)
            found.total.backward()
        expected.total.backward()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert not torch._dynamo.utils.counters["graph_break"]


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """flex_attention by torch's dense stand-in for its kernels, which it refuses to differentiate on a CPU: there is no
    compiled backward for one."""
    making = attention._compiled(attention.create_block_mask)
    with (
        patch("torch.nn.attention.flex_attention._validate_device", lambda *_: None),
        patch("pipeline.model.attention.create_block_mask", making),
        patch("pipeline.model.decoder.path_on", lambda device, training: "flex"),
    ):
        yield
