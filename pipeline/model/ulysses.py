"""Ulysses sequence parallel: ranks that hold slices of the same sequences, and meet in attention.

    one of N peers:  its T/N positions, all heads ──all-to-all──> all T positions, its H/N heads
                                                                          │ attend
                     its T/N positions, all heads <──all-to-all── all T positions, its H/N heads

All but attention works on each position by itself and never notices (Jacobs et al., "DeepSpeed Ulysses", 2023). So a
sequence may be N times as long as one device's activations allow, and attention is what it was: the same kernels, and
the same mask, which every peer makes from whole rows of tokens.

Shape suffixes are those of layers.py; t = T/N, h = H/N.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.model.attention import Mask, attend


@dataclass(frozen=True, eq=False)
class Peers:
    """Those that hold slices of the same sequences, as one of them sees them; by default it is alone with the whole."""

    size: int = 1
    rank: int = 0
    """Which slice is this one's, counted from 0."""
    group: dist.ProcessGroup | None = None

    def own(self, whole_BT: Tensor) -> Tensor:
        """This one's slice, (B, t)."""
        return whole_BT.chunk(self.size, dim=1)[self.rank]


def find_peers(size: int) -> Peers:
    """This rank's peers: each `size` ranks that follow one another are such a group, those of a node if it has as many.
    All ranks call it at the same time."""
    if size == 1:
        return Peers()
    group, _ = dist.new_subgroups(group_size=size)  # type: ignore[no-untyped-call]
    return Peers(size=size, rank=dist.get_rank(group), group=group)


def attend_together(query_BHtC: Tensor, key_BKtC: Tensor, value_BKtC: Tensor, mask_of_T: Mask, peers: Peers) -> Tensor:
    """`attend` over whole sequences, (B, H, t, C), where each peer brings its slice and gets the outputs of it.

    H is divisible by the number of peers. So is K, or it divides it: then several peers work with the same key head.
    """
    if peers.size == 1:
        return attend(query_BHtC, key_BKtC, value_BKtC, mask_of_T)
    if key_BKtC.shape[1] < peers.size:
        times = peers.size // key_BKtC.shape[1]
        key_BKtC, value_BKtC = (one.repeat_interleave(times, dim=1) for one in (key_BKtC, value_BKtC))
    B, _, t, C = query_BHtC.shape
    by_peer = [one.view(B, peers.size, -1, t, C).movedim(1, 0) for one in (query_BHtC, key_BKtC, value_BKtC)]
    slices_NBhtC = exchanged(torch.cat(by_peer, dim=2), peers)
    together_BhTC = slices_NBhtC.movedim(0, 2).flatten(2, 3)
    query_BhTC, key_BkTC, value_BkTC = torch.split(together_BhTC, [one.shape[2] for one in by_peer], dim=1)
    out_BhTC = attend(query_BhTC, key_BkTC, value_BkTC, mask_of_T)
    heads_NBhtC = exchanged(out_BhTC.view(B, -1, peers.size, t, C).movedim(2, 0), peers)
    # Laid down as the next layer reads it: position by position.
    return heads_NBhtC.permute(1, 3, 0, 2, 4).flatten(2, 3).transpose(1, 2)


def exchanged(parts_N: Tensor, peers: Peers) -> Tensor:
    """Part p goes to peer p; gives what came from each, (N, ...) as before."""
    parts: Tensor = _Exchange.apply(parts_N, peers)  # type: ignore[no-untyped-call]
    return parts


class _Exchange(torch.autograd.Function):
    """An all-to-all of equal parts is its own inverse, so gradients go back the way they came."""

    @staticmethod
    def forward(ctx: Any, parts_N: Tensor, peers: Peers) -> Tensor:
        ctx.peers = peers
        return _all_to_all(parts_N, peers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _all_to_all(grads[0], ctx.peers), None


def _all_to_all(parts_N: Tensor, peers: Peers) -> Tensor:
    sent = parts_N.contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=peers.group)
    return received
