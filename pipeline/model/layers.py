"""The parts of the Transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU, and the stack of blocks.

Shape suffixes: B sequences, T positions, S positions attended to, D width, H query heads, K key-value heads, C head
size, F hidden size of the MLP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.config import ModelConfig
from pipeline.model.attention import Mask
from pipeline.model.ulysses import Peers, attend_together


def rotary(length: int, head_size: int, theta: float, device: torch.device, *, first: int = 0) -> tuple[Tensor, Tensor]:
    """cos and sin, each (T, C/2) in fp32, of rotary position embedding (Su et al., 2021) at positions from `first`.

    Not buffers of a module: a bf16 engine would round buffers to bf16, and positions beyond 256 would blur.
    """
    frequency = theta ** (-torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size)
    angle = torch.arange(first, first + length, device=device, dtype=torch.float32)[:, None] * frequency[None, :]
    return angle.cos(), angle.sin()


def rotate(x_BHTC: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
    """Rotates the pairs (c, c + C/2) by their position's angle: the half-split layout that Llama checkpoints use."""
    first, second = x_BHTC.float().chunk(2, dim=-1)
    rotated = torch.cat((first * cos_TC - second * sin_TC, second * cos_TC + first * sin_TC), dim=-1)
    return rotated.to(x_BHTC.dtype)


@dataclass
class KeyValues:
    """One layer's keys and values of the positions so far: what generating a token need not compute again."""

    keys: Tensor
    """(B, K, S, C), rotated; there is room for S positions."""
    values: Tensor
    """(B, K, S, C)."""
    length: int = 0
    """Positions filled."""

    def extend(self, key_BKTC: Tensor, value_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        """Adds T positions; gives the keys and values of all so far, views of the cache."""
        end = self.length + key_BKTC.shape[2]
        assert end <= self.keys.shape[2], "the cache is full; whoever generates moves the window first"
        self.keys[:, :, self.length : end] = key_BKTC
        self.values[:, :, self.length : end] = value_BKTC
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class Attention(nn.Module):
    """Causal grouped-query attention (Ainslie et al., 2023) that stays inside a document."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.kv_heads = config.kv_heads or config.heads
        self.head_size = config.width // config.heads
        self.peers = Peers()
        self.query = nn.Linear(config.width, self.heads * self.head_size, bias=False)
        self.key = nn.Linear(config.width, self.kv_heads * self.head_size, bias=False)
        self.value = nn.Linear(config.width, self.kv_heads * self.head_size, bias=False)
        self.out = nn.Linear(self.heads * self.head_size, config.width, bias=False)
        self.query_norm, self.key_norm = (
            nn.RMSNorm(self.head_size, eps=config.norm_eps) if config.qk_norm else nn.Identity() for _ in range(2)
        )

    def forward(
        self, x_BTD: Tensor, cos_TC: Tensor, sin_TC: Tensor, mask: Mask, past: KeyValues | None = None
    ) -> Tensor:
        B, T, _ = x_BTD.shape
        query_BHTC = self.query_norm(self.query(x_BTD).view(B, T, self.heads, self.head_size)).transpose(1, 2)
        key_BKTC = self.key_norm(self.key(x_BTD).view(B, T, self.kv_heads, self.head_size)).transpose(1, 2)
        value_BKTC = self.value(x_BTD).view(B, T, self.kv_heads, self.head_size).transpose(1, 2)
        key_BKSC, value_BKSC = rotate(key_BKTC, cos_TC, sin_TC), value_BKTC
        if past is not None:
            key_BKSC, value_BKSC = past.extend(key_BKSC, value_BKSC)
        out_BHTC = attend_together(rotate(query_BHTC, cos_TC, sin_TC), key_BKSC, value_BKSC, mask, self.peers)
        out: Tensor = self.out(out_BHTC.transpose(1, 2).reshape(B, T, -1))
        return out


class SwiGLU(nn.Module):
    """silu(x·gate) * (x·up) · down (Shazeer, 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.mlp_hidden
        self.gate = nn.Linear(config.width, hidden, bias=False)
        self.up = nn.Linear(config.width, hidden, bias=False)
        self.down = nn.Linear(hidden, config.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))
        return out


class Block(nn.Module):
    """Pre-norm residual block: attention, then the MLP."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.mlp = SwiGLU(config)
        self.recompute_attention = config.recompute == "attention"

    def forward(
        self, x_BTD: Tensor, cos_TC: Tensor, sin_TC: Tensor, mask: Mask, past: KeyValues | None = None
    ) -> Tensor:
        if self.recompute_attention and torch.is_grad_enabled():
            x_BTD = x_BTD + recomputed(self._attention, x_BTD, cos_TC, sin_TC, mask)
        else:
            x_BTD = x_BTD + self._attention(x_BTD, cos_TC, sin_TC, mask, past)
        out: Tensor = x_BTD + self.mlp(self.mlp_norm(x_BTD))
        return out

    def _attention(self, x_BTD: Tensor, *how: Any) -> Any:
        return self.attention(self.attention_norm(x_BTD), *how)


class Blocks(nn.ModuleList):
    """All blocks, one after the other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(Block(config) for _ in range(config.layers))
        self.recompute_every = config.recompute_every if config.recompute == "block" else None

    def forward(
        self, x_BTD: Tensor, cos_TC: Tensor, sin_TC: Tensor, mask: Mask, cache: Sequence[KeyValues] | None = None
    ) -> Tensor:
        for at, block in enumerate(self):
            if self.recompute_every and at % self.recompute_every == 0 and torch.is_grad_enabled():
                x_BTD = recomputed(block, x_BTD, cos_TC, sin_TC, mask)
            else:
                x_BTD = block(x_BTD, cos_TC, sin_TC, mask, None if cache is None else cache[at])
        return x_BTD


def recomputed(function: Any, *inputs: Any) -> Any:
    """Keeps the inputs alone and computes the rest again in backward. Nothing here draws random numbers."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def compile_forward(module: nn.Module) -> None:
    """Compiles what a module computes, and not the hooks around it, as `module.compile()` would: at ZeRO stage 3 they
    gather the module's weights."""
    module.forward = torch.compile(module.forward)
