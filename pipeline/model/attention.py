"""Attention that stays inside a document, by the fastest way at hand.

    tokens_BT ──document_numbers──> document_BT ──mask_of, once a batch──> mask ──attend, in every block──> out_BHTC

    training on a GPU    flex_attention, compiled: blocks of 128 × 128 that no document reaches are not computed
    everywhere else      SDPA: `is_causal` if each row holds a single document, else a mask added to the scores

flex_attention compiles anew for each length; training has one, evaluation and sampling have many. Shape suffixes are
those of layers.py.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

Mask: TypeAlias = Tensor | BlockMask | None
"""Who may attend to whom: bool or added to the scores, (B, 1, T, S); flex_attention's own; None: all that is
earlier."""
Path = Literal["flex", "sdpa"]


def path_on(device: torch.device, *, training: bool) -> Path:
    return "flex" if device.type == "cuda" and training else "sdpa"


def document_numbers(tokens_BT: Tensor, end_of_text_id: int) -> Tensor:
    """Which of its row's documents each position belongs to, (B, T) int64. End-of-text opens a document."""
    return (tokens_BT == end_of_text_id).cumsum(dim=1)


def mask_of(document_BT: Tensor, dtype: torch.dtype, path: Path) -> Mask:
    """Earlier positions of the same document, for attention in `dtype`."""
    if path == "flex":
        return flex_mask(document_BT)
    # Looking is free on a CPU; a GPU would have to stop for it.
    if document_BT.device.type == "cpu" and bool((document_BT == document_BT[:, :1]).all()):
        return None
    return added_mask(document_mask(document_BT), dtype)


def document_mask(document_BT: Tensor) -> Tensor:
    """(B, 1, T, T) bool: earlier positions of the same document."""
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    return (same_BTT & torch.ones_like(same_BTT[0]).tril()).unsqueeze(1)


def added_mask(allowed_B1TT: Tensor, dtype: torch.dtype) -> Tensor:
    """0 or -inf. SDPA would make it of the booleans, in every block anew."""
    return torch.zeros_like(allowed_B1TT, dtype=dtype).masked_fill_(~allowed_B1TT, -torch.inf)


def flex_mask(document_BT: Tensor) -> BlockMask:
    B, T = document_BT.shape

    def may_attend(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (document_BT[row, query] == document_BT[row, key])

    on_cpu = document_BT.device.type == "cpu"
    create: Callable[..., BlockMask] = create_block_mask if on_cpu else _compiled(create_block_mask)
    return create(may_attend, B, None, T, T, device=document_BT.device)


def attend(query_BHTC: Tensor, key_BKSC: Tensor, value_BKSC: Tensor, mask: Mask) -> Tensor:
    """softmax(q·k / √C)·v, (B, H, T, C); each key head serves H / K query heads."""
    grouped = query_BHTC.shape[1] != key_BKSC.shape[1]
    if isinstance(mask, BlockMask):
        # Not compiled it would hold all scores. Inside a compiled block it is compiled with the block; a CPU, which
        # has no compiled backward, runs it in tests only.
        bare = query_BHTC.device.type == "cpu" or torch.compiler.is_compiling()
        flex: Any = flex_attention if bare else _compiled(flex_attention)
        out: Tensor = flex(query_BHTC, key_BKSC, value_BKSC, block_mask=mask, enable_gqa=grouped)
        return out
    return F.scaled_dot_product_attention(
        query_BHTC, key_BKSC, value_BKSC, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
    )


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)
