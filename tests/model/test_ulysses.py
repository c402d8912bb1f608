"""Peers with slices of a sequence compute what one rank computes with the whole.

Peers are threads here, which swap their parts over a table; `test_ranks_swap_as_threads_do` holds that against gloo.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar, cast

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.config import ModelConfig
from pipeline.model import ulysses
from pipeline.model.attention import attend, document_numbers, mask_of
from pipeline.model.decoder import Decoder, build
from pipeline.model.ulysses import Peers, attend_together, exchanged, find_peers

EOT, VOCAB = 0, 50
SHAPE = ModelConfig(layers=2, width=32, heads=4, kv_heads=2)
Found = TypeVar("Found")


class Table:
    """Where threads put down what they send. One who does not come to a swap breaks the table for all."""

    def __init__(self, size: int) -> None:
        self.places: list[Tensor] = [torch.empty(0)] * size
        self.meet = Barrier(size, timeout=120)


def over_table(parts_N: Tensor, peers: Peers) -> Tensor:
    table = cast(Table, peers.group)
    table.places[peers.rank] = parts_N.detach()
    table.meet.wait()
    received = torch.stack([place[peers.rank] for place in table.places])
    table.meet.wait()
    return received


def together(size: int, work: Callable[[Peers], Found]) -> list[Found]:
    """What each of so many peers makes."""
    table: Any = Table(size)

    def as_peer(rank: int) -> Found:
        try:
            return work(Peers(size=size, rank=rank, group=table))
        except BaseException:
            table.meet.abort()
            raise

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(max_workers=size) as pool:
        patch.setattr(ulysses, "_all_to_all", over_table)
        return list(pool.map(as_peer, range(size)))


def rows(B: int, T: int, seed: int) -> Tensor:
    """Rows of a few documents, the last of which ends in padding."""
    tokens_BT = torch.randint(1, VOCAB, (B, T), generator=torch.Generator().manual_seed(seed))
    tokens_BT[torch.rand((B, T), generator=torch.Generator().manual_seed(seed)) < 0.1] = EOT
    tokens_BT[-1, T - T // 3 :] = EOT
    return tokens_BT


def part_of(sender: int, receiver: int, seed: int) -> Tensor:
    return torch.randn(3, 2, generator=torch.Generator().manual_seed(100 * seed + 10 * sender + receiver))


def swap_and_back(peers: Peers) -> None:
    """Each part arrives where it should, and so does each gradient, which is another for each."""
    numbers = range(peers.size)
    parts_N = torch.stack([part_of(peers.rank, to, seed=1) for to in numbers]).requires_grad_()
    received_N = exchanged(parts_N, peers)
    assert torch.equal(received_N, torch.stack([part_of(sender, peers.rank, seed=1) for sender in numbers]))
    received_N.backward(torch.stack([part_of(sender, peers.rank, seed=2) for sender in numbers]))
    assert parts_N.grad is not None
    assert torch.equal(parts_N.grad, torch.stack([part_of(peers.rank, to, seed=2) for to in numbers]))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_parts_and_their_gradients_arrive(size: int) -> None:
    together(size, swap_and_back)


@settings(deadline=None, max_examples=40)
@given(
    size=st.sampled_from([2, 3, 4]),
    key_heads=st.sampled_from(["fewer", "as many", "more"]),
    sharing=st.integers(1, 3),
    B=st.integers(1, 3),
    t=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_attention_of_slices_is_that_of_the_whole(
    size: int, key_heads: str, sharing: int, B: int, t: int, seed: int
) -> None:
    """Outputs and gradients, with documents that reach over the slices' borders."""
    K = {"fewer": 2 if size == 4 else 1, "as many": size, "more": 2 * size}[key_heads]
    H, T = K * sharing * max(1, size // K), size * t
    generator = torch.Generator().manual_seed(seed)
    whole = [torch.randn(B, heads, T, 8, generator=generator) for heads in (H, K, K, H)]
    mask = mask_of(document_numbers(rows(B, T, seed), EOT), torch.float32, "sdpa")

    def out_and_gradients(inputs: list[Tensor], attended: Callable[..., Tensor]) -> list[Tensor]:
        query, key, value = (one.clone().requires_grad_() for one in inputs[:3])
        out = attended(query, key, value)
        return [out, *torch.autograd.grad((out * inputs[3]).sum(), (query, key, value))]

    found = together(
        size,
        lambda peers: out_and_gradients(
            [one.chunk(size, dim=2)[peers.rank] for one in whole],
            lambda *slices: attend_together(*slices, mask, peers),
        ),
    )
    expected = out_and_gradients(whole, lambda *inputs: attend(*inputs, mask))
    for slices, one in zip(zip(*found, strict=True), expected, strict=True):
        torch.testing.assert_close(torch.cat(slices, dim=2), one, rtol=1e-4, atol=1e-5)


def figures(model: Decoder, tokens_BT: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Logits, the three losses, and the gradients of all parameters."""
    losses = model(tokens_BT, loss=True)
    losses.total.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return model(tokens_BT).detach(), torch.stack(losses).detach(), gradients


def peers_agree_with_one(
    options: dict[str, Any], size: int, work: Callable[[Callable[[Peers], Any]], list[Any]]
) -> None:
    config, tokens_BT = replace(SHAPE, **options), rows(3, 24, seed=0)

    def as_peer(peers: Peers) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        model = build(config, VOCAB, EOT, seed=0)
        model.share_sequences(peers)
        return figures(model, tokens_BT)

    logits, losses, gradients = zip(*work(as_peer), strict=True)
    expected_logits, expected_losses, expected_gradients = figures(build(config, VOCAB, EOT, seed=0), tokens_BT)
    torch.testing.assert_close(torch.cat(logits, dim=1), expected_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.stack(losses).mean(dim=0), expected_losses, rtol=1e-5, atol=1e-6)
    assert expected_gradients.keys() == {name for name, _ in build(config, VOCAB, EOT, seed=0).named_parameters()}
    for name, expected in expected_gradients.items():
        mean = torch.stack([one[name] for one in gradients]).mean(dim=0)
        torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"recompute": "attention"},
        {"recompute": "block", "recompute_every": 2},
        {"loss_chunk_size": 7, "z_loss": 1e-3, "logit_soft_cap": 30.0},
        {"tie_embeddings": True, "qk_norm": True, "base_width": 16},
    ],
    ids=str,
)
def test_the_mean_over_peers_is_the_whole(options: dict[str, Any], size: int) -> None:
    """Losses and gradients: as an engine averages those of ranks with rows of their own. Logits slice by slice."""
    peers_agree_with_one(options, size, lambda as_peer: together(size, as_peer))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_takes_a_peers_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward: a CPU has no backward of it."""
    monkeypatch.setattr("pipeline.model.decoder.path_on", lambda device, training: "flex")
    tokens_BT = rows(2, 160, seed=0)
    model = build(SHAPE, VOCAB, EOT, seed=0).requires_grad_(False)

    def as_peer(peers: Peers) -> Tensor:
        model = build(SHAPE, VOCAB, EOT, seed=0).requires_grad_(False)
        model.share_sequences(peers)
        logits_BtV: Tensor = model(tokens_BT)
        return logits_BtV

    torch.testing.assert_close(torch.cat(together(2, as_peer), dim=1), model(tokens_BT), rtol=1e-4, atol=1e-5)


def test_one_rank_alone_has_the_whole() -> None:
    assert find_peers(1).own(tokens := rows(2, 8, seed=0)).equal(tokens)


def as_rank(rank: int, size: int, meeting: str) -> None:
    """Two groups of two over gloo, one of which compiles its model, if only into a graph that is run as it is."""
    torch.set_num_threads(1)
    compiled: Any = torch.nn.Module.compile
    torch.nn.Module.compile = lambda module: compiled(module, backend="aot_eager", fullgraph=True)  # type: ignore[method-assign]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    peers = find_peers(2)
    assert (peers.size, peers.rank) == (2, rank % 2)
    assert dist.get_process_group_ranks(peers.group) == [rank // 2 * 2, rank // 2 * 2 + 1]  # type: ignore[arg-type]
    swap_and_back(peers)

    def by_group(as_peer: Callable[[Peers], Any]) -> list[Any]:
        found: list[Any] = [None, None]
        dist.all_gather_object(found, as_peer(peers), group=peers.group)
        return found

    peers_agree_with_one([{}, {"compile": "block"}][rank // 2], 2, by_group)
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_swap_as_threads_do(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(as_rank, (4, str(tmp_path / "meeting")), nprocs=4)  # type: ignore[no-untyped-call]
