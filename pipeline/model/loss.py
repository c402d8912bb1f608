"""The output layer and the loss.

    x_BTD ──OutputLayer──> logits_BTV
    x_BTD, targets_BT ──OutputLayer──> Losses          all logits at once, or a chunk of positions at a time

What is unusual: a chunk's gradients are computed right behind its loss, before the next chunk's logits are made, so
that at no time there are more logits than one chunk's, and none are computed twice (Hsu et al., "Liger Kernel", 2024).
The gradient of a chunk is autograd's of the very function that the whole batch would go through. That function goes
over the logits some ten times, mostly in fp32; compiled, a few times and as they are.

Shape suffixes: N positions of all rows, V tokens of the vocabulary, D width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.model.width import width_ratio

IGNORE = -100


class Losses(NamedTuple):
    """Scalars, fp32: sums or means over positions."""

    total: Tensor
    """What is trained on: the sum of the other two."""
    cross_entropy: Tensor
    """In nats; without gradient."""
    z_loss: Tensor
    """`model.z_loss` × log²Z; without gradient."""


class OutputLayer(nn.Module):
    """Logits or, given targets, the loss right away: at ZeRO stage 3 the weight is only whole while its module is
    called."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, config.width))
        self.width_ratio = width_ratio(config)
        self.soft_cap, self.z_weight, self.chunk_size = config.logit_soft_cap, config.z_loss, config.loss_chunk_size
        self.sums: Sums = capped_sums

    def compile_loss(self) -> None:
        """From here on what follows the logits is compiled, once for each number of positions at a time: there are two
        at most, a chunk's and the last one's."""
        self.sums = torch.compile(capped_sums, dynamic=False)

    def forward(self, x_BTD: Tensor, targets_BT: Tensor | None = None) -> Tensor | Losses:
        """Logits (..., V) of hidden states (..., D); with targets, sums over all positions that have one."""
        if self.width_ratio != 1:
            x_BTD = x_BTD / self.width_ratio
        if targets_BT is None or self.chunk_size is None:
            logits_BTV = F.linear(x_BTD, self.weight)
            if targets_BT is None:
                return soft_capped(logits_BTV, self.soft_cap)
            return self.sums(logits_BTV, targets_BT, self.soft_cap, self.z_weight)
        x_ND, targets_N = x_BTD.flatten(0, -2), targets_BT.flatten()
        return Losses(
            *_ChunkedLoss.apply(  # type: ignore[no-untyped-call]
                x_ND, self.weight, targets_N, self.chunk_size, self.sums, self.soft_cap, self.z_weight
            )
        )


def soft_capped(logits_NV: Tensor, cap: float | None) -> Tensor:
    """cap × tanh(logits / cap) in fp32: none is beyond ±cap (Gemma 2, 2024). Unchanged without a cap."""
    return logits_NV if cap is None else cap * torch.tanh(logits_NV.float() / cap)


def loss_sums(logits_BTV: Tensor, targets_BT: Tensor, z_weight: float) -> Losses:
    """Sums over all positions with a target, in fp32.

    z-loss is z_weight × log²Z, where Z normalises the softmax: it keeps logits from drifting away together (PaLM,
    Chowdhery et al., 2022, section 5).
    """
    logits_NV, targets_N = logits_BTV.float().flatten(0, -2), targets_BT.flatten()
    cross_entropy = F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORE, reduction="sum")
    if not z_weight:
        return Losses(cross_entropy, cross_entropy.detach(), torch.zeros_like(cross_entropy))
    log_z_N = logits_NV.logsumexp(dim=-1).masked_fill(targets_N == IGNORE, 0.0)
    z_loss = z_weight * log_z_N.square().sum()
    return Losses(cross_entropy + z_loss, cross_entropy.detach(), z_loss.detach())


def capped_sums(logits_BTV: Tensor, targets_BT: Tensor, soft_cap: float | None, z_weight: float) -> Losses:
    """All that training does with logits."""
    return loss_sums(soft_capped(logits_BTV, soft_cap), targets_BT, z_weight)


Sums = Callable[[Tensor, Tensor, float | None, float], Losses]
"""`capped_sums`, or what a compiler makes of it."""


class _ChunkedLoss(torch.autograd.Function):
    """`loss_sums` of the output layer, and at once its gradients. Holds (chunk, V) logits, never (N, V)."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        chunk_size: int,
        sums_of: Sums,
        soft_cap: float | None,
        z_weight: float,
    ) -> tuple[Tensor, ...]:
        sums = torch.zeros(3, device=x_ND.device)
        x_grad_ND = torch.empty_like(x_ND)
        weight_grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32)  # chunks in bf16 would not add up
        for begin in range(0, len(x_ND), chunk_size):
            x_nD, targets_n, x_grad_nD = (tensor[begin : begin + chunk_size] for tensor in (x_ND, targets_N, x_grad_ND))
            logits_nV = F.linear(x_nD, weight_VD).requires_grad_()
            with torch.enable_grad():
                losses = sums_of(logits_nV, targets_n, soft_cap, z_weight)
                (logits_grad_nV,) = torch.autograd.grad(losses.total, logits_nV)
            sums += torch.stack(losses).detach()
            torch.mm(logits_grad_nV, weight_VD, out=x_grad_nD)
            weight_grad_VD += logits_grad_nV.T @ x_nD
        ctx.save_for_backward(x_grad_ND, weight_grad_VD.to(weight_VD.dtype))
        total, cross_entropy, z_loss = sums.unbind()
        ctx.mark_non_differentiable(cross_entropy, z_loss)
        return total, cross_entropy, z_loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_grad_ND, weight_grad_VD = ctx.saved_tensors
        return x_grad_ND * grads[0], weight_grad_VD * grads[0], None, None, None, None, None


def next_token_targets(tokens_BT: Tensor, end_of_text_id: int) -> Tensor:
    """What each position predicts, (B, T): the next token, or IGNORE at the row's end and inside padding.

    Padding is end-of-text after end-of-text, which no document makes: documents are never empty.
    """
    targets_BT = F.pad(tokens_BT[:, 1:], (0, 1), value=IGNORE)
    padding_BT = (tokens_BT == end_of_text_id) & (targets_BT == end_of_text_id)
    return targets_BT.masked_fill(padding_BT, IGNORE)


def mean_losses(sums: Losses, tokens_BT: Tensor, slices: int = 1) -> Losses:
    """Sums over B × (T-1), the positions that have a next token; of one of several slices of them, its equal share.

    The divisor is fixed rather than the count of scored positions, so that the mean over micro-batches and ranks is the
    same function of the global batch whatever the world size; it differs only in a source's one padded sequence. The
    mean over slices is that of the whole rows in the same way, so that to the engine a slice is a rank like any other.
    """
    B, T = tokens_BT.shape
    return Losses(*(loss / (B * (T - 1) / slices) for loss in sums))


def next_token_loss(logits_BTV: Tensor, tokens_BT: Tensor, end_of_text_id: int) -> Tensor:
    """Mean cross entropy in nats, fp32, over the B × (T-1) positions that have a next token."""
    sums = loss_sums(logits_BTV, next_token_targets(tokens_BT, end_of_text_id), 0.0)
    return mean_losses(sums, tokens_BT).total
