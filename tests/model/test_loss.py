"""The loss in chunks is the loss: the same figures, the same gradients, and never the memory."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.config import ModelConfig
from pipeline.model.decoder import Decoder, build
from pipeline.model.loss import IGNORE, loss_sums, next_token_targets, soft_capped

EOT, VOCAB, B, T = 0, 512, 2, 48
SHAPE = ModelConfig(layers=1, width=32, heads=4)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_embeddings": True},
    "z-loss": {"z_loss": 1e-2},
    "soft-cap": {"logit_soft_cap": 0.5},
    "all": {"z_loss": 1e-2, "logit_soft_cap": 0.5, "tie_embeddings": True, "base_width": 8, "qk_norm": True},
}
options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def some_tokens() -> torch.Tensor:
    tokens = torch.randint(1, VOCAB, (B, T), generator=torch.Generator().manual_seed(1))
    tokens[:, ::11] = EOT
    tokens[1, 40:] = EOT
    return tokens


def losses_and_gradients(config: ModelConfig) -> tuple[Any, dict[str, torch.Tensor]]:
    model = build(config, VOCAB, EOT, seed=0)
    losses = model(some_tokens(), loss=True)
    (3 * losses.total).backward()  # an engine scales the loss before it goes back
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@options
@pytest.mark.parametrize("chunk_size", [1, 7, 32, B * T, 1000])
def test_chunks_give_the_same_losses_and_gradients(options: dict[str, Any], chunk_size: int) -> None:
    whole = replace(SHAPE, **options)
    expected, gradients = losses_and_gradients(whole)
    found, ours = losses_and_gradients(replace(whole, loss_chunk_size=chunk_size))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert ours.keys() == gradients.keys() == dict(build(whole, VOCAB, EOT, seed=0).named_parameters()).keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


class Largest(TorchDispatchMode):
    """The most numbers in any tensor that an operation makes, forward or backward."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.numbers = max(self.numbers, *made, 0)
        return out


def largest_tensor(config: ModelConfig) -> int:
    model = build(config, VOCAB, EOT, seed=0)
    with Largest() as largest:
        model(some_tokens(), loss=True).total.backward()
    return largest.numbers


@options
def test_chunks_never_hold_all_logits(options: dict[str, Any]) -> None:
    config = replace(SHAPE, **options)
    assert largest_tensor(config) == B * T * VOCAB, "the measure must see them"
    assert largest_tensor(replace(config, loss_chunk_size=8)) == VOCAB * config.width  # the weight's gradient


def test_chunked_gradients_in_bf16_are_as_good_as_whole_ones() -> None:
    """Against fp32; added up in bf16, those of 96 chunks would be several times worse."""
    config = replace(SHAPE, tie_embeddings=False)

    def output_gradient(config: ModelConfig, dtype: torch.dtype) -> torch.Tensor:
        model = build(config, VOCAB, EOT, seed=0).to(torch.bfloat16).to(dtype)
        model(some_tokens(), loss=True).total.backward()
        assert model.output.weight.grad is not None
        return model.output.weight.grad.float()

    exact = output_gradient(config, torch.float32)
    whole = (output_gradient(config, torch.bfloat16) - exact).norm()
    chunked = (output_gradient(replace(config, loss_chunk_size=1), torch.bfloat16) - exact).norm()
    assert chunked < 1.2 * whole


def test_z_loss_is_the_mean_of_log_z_squared_over_the_same_constant() -> None:
    tokens, weight = some_tokens(), 1e-2
    model = build(replace(SHAPE, z_loss=weight), VOCAB, EOT, seed=0)
    scored = next_token_targets(tokens, EOT) != IGNORE
    log_z = model(tokens).logsumexp(-1)[scored]
    losses = model(tokens, loss=True)
    plain = build(SHAPE, VOCAB, EOT, seed=0)(tokens, loss=True)
    torch.testing.assert_close(losses.z_loss, weight * log_z.square().sum() / (B * (T - 1)))
    torch.testing.assert_close(losses.cross_entropy, plain.total)
    torch.testing.assert_close(losses.total, losses.cross_entropy + losses.z_loss)
    assert (losses.cross_entropy.requires_grad, losses.z_loss.requires_grad) == (False, False)
    assert plain.z_loss == 0


def test_z_loss_alone_pulls_log_z_to_nothing() -> None:
    logits = torch.full((1, 1, 4), 3.0, requires_grad=True)
    ignored = loss_sums(logits, torch.tensor([[IGNORE]]), 1.0)
    assert ignored.total == 0
    scored = loss_sums(logits, torch.tensor([[2]]), 1.0)
    assert scored.z_loss.item() == pytest.approx((3 + math.log(4)) ** 2, rel=1e-6)


def test_soft_cap_bounds_logits_and_leaves_small_ones() -> None:
    logits = torch.tensor([-1e4, -0.1, 0.0, 0.1, 1e4])
    capped = soft_capped(logits, 30.0)
    assert capped.abs().max() <= 30
    torch.testing.assert_close(capped[1:4], logits[1:4], rtol=1e-4, atol=0)
    assert soft_capped(logits, None) is logits


@torch.inference_mode()
def test_soft_cap_holds_wherever_logits_come_from() -> None:
    """The whole row, and generating with a cache."""
    model: Decoder = build(replace(SHAPE, logit_soft_cap=0.05), VOCAB, EOT, seed=0).eval()
    tokens = torch.tensor([[EOT, 5, 6, 7]])
    whole = model(tokens)
    assert 0.03 < whole.abs().max() <= 0.05
    torch.testing.assert_close(model.next_logits(tokens, model.empty_cache(8)), whole[:, -1], rtol=1e-4, atol=1e-6)
