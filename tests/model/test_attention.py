"""All ways to attend agree, each is taken where it should be, and the mask is made once a batch."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.config import ModelConfig
from pipeline.model import attention
from pipeline.model.attention import (
    BlockMask,
    attend,
    create_block_mask,
    document_mask,
    document_numbers,
    flex_attention,
    mask_of,
    path_on,
)
from pipeline.model.decoder import Decoder, build

EOT, VOCAB, T = 0, 50, 160  # more than one of flex_attention's blocks, and no whole number of them
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def documents() -> torch.Tensor:
    """Rows of one document, two, many, and one that ends in padding."""
    tokens = torch.randint(1, VOCAB, (4, T), generator=torch.Generator().manual_seed(0))
    tokens[1, 100] = EOT
    tokens[2, ::7] = EOT
    tokens[3, 120:] = EOT
    return tokens


def heads(seed: int, count: int) -> torch.Tensor:
    return torch.randn(4, count, T, 8, generator=torch.Generator().manual_seed(seed))


def by_definition(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    key, value = (tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1) for tensor in (key, value))
    scores = query @ key.mT / query.shape[-1] ** 0.5
    return scores.masked_fill(~document_mask(numbers), -torch.inf).softmax(-1) @ value


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("path", ["sdpa", "flex"])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("tokens", [documents(), documents()[:1]], ids=["several", "one document"])
def test_every_path_is_attention_by_definition(path: Any, kv_heads: int, tokens: torch.Tensor) -> None:
    """Outputs, and where there is a backward (flex_attention has none on a CPU) gradients."""
    numbers, B = document_numbers(tokens, EOT), len(tokens)
    inputs = [heads(0, 4)[:B], heads(1, kv_heads)[:B], heads(2, kv_heads)[:B]]
    ours, theirs = ([tensor.clone().requires_grad_(path == "sdpa") for tensor in inputs] for _ in range(2))
    found = attend(*ours, mask_of(numbers, torch.float32, path))  # type: ignore[arg-type]
    expected = by_definition(*theirs, numbers)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if path == "flex":
        return
    weights = heads(3, 4)[:B]
    for mine, other in zip(
        torch.autograd.grad((found * weights).sum(), ours),
        torch.autograd.grad((expected * weights).sum(), theirs),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.inference_mode()
def test_a_whole_model_computes_the_same_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(ModelConfig(layers=2, width=32, heads=4, kv_heads=2), VOCAB, EOT, seed=0)
    expected = model(documents())
    monkeypatch.setattr("pipeline.model.decoder.path_on", lambda device, training: "flex")
    torch.testing.assert_close(model(documents()), expected, rtol=1e-4, atol=1e-5)


def test_a_gpu_in_training_takes_flex_attention_and_all_else_sdpa() -> None:
    assert path_on(torch.device("cuda"), training=True) == "flex"
    assert path_on(torch.device("cuda"), training=False) == "sdpa", "each length would be compiled"
    assert path_on(torch.device("cpu"), training=True) == "sdpa"


def test_rows_of_a_single_document_need_no_mask() -> None:
    tokens = documents()[:1]
    assert mask_of(document_numbers(tokens, EOT), torch.float32, "sdpa") is None
    opened = torch.cat([torch.tensor([[EOT]]), tokens], dim=1)
    assert mask_of(document_numbers(opened, EOT), torch.float32, "sdpa") is None
    for at in range(1, 4):
        assert mask_of(document_numbers(documents()[at : at + 1], EOT), torch.float32, "sdpa") is not None


def test_the_mask_is_made_once_a_batch_in_the_precision_of_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = attention.attend

    def watching(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any) -> torch.Tensor:
        seen.append(mask)
        return real(query, key, value, mask)

    monkeypatch.setattr("pipeline.model.ulysses.attend", watching)
    model = build(ModelConfig(layers=3, width=32, heads=4), VOCAB, EOT, seed=0).to(torch.bfloat16)
    model(documents())
    assert len(seen) == 3
    assert {id(mask) for mask in seen} == {id(seen[0])}
    assert seen[0].dtype == torch.bfloat16, "SDPA would turn booleans into it in every block"


def test_flex_skips_the_blocks_that_no_document_reaches() -> None:
    """256 positions in two documents of 128: of four blocks of 128 × 128 the two on the diagonal are looked at."""
    tokens = torch.ones(1, 256, dtype=torch.int64)
    tokens[0, 128] = EOT
    mask = mask_of(document_numbers(tokens, EOT), torch.float32, "flex")
    assert isinstance(mask, BlockMask)
    assert mask.to_dense()[0, 0].tolist() == [[1, 0], [0, 1]]


@CUDA
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@pytest.mark.parametrize("compile", ["none", "block"])
def test_on_a_gpu_training_computes_what_evaluation_does(compile: Any) -> None:
    """flex_attention, compiled, against SDPA with a mask; gradients against those on the CPU."""
    torch.set_float32_matmul_precision("highest")
    config = ModelConfig(layers=2, width=128, heads=4, kv_heads=2, compile=compile)
    on_cpu, on_gpu = (build(replace(config, compile=how), VOCAB, EOT, seed=0) for how in ("none", compile))
    on_gpu.cuda()
    plain = Decoder(config, VOCAB, EOT).cuda().eval()
    plain.load_state_dict(on_gpu.state_dict())
    tokens = documents().cuda()
    torch.testing.assert_close(on_gpu(tokens), plain(tokens), rtol=1e-3, atol=1e-4)
    on_gpu(tokens, loss=True).total.backward()
    on_cpu(documents(), loss=True).total.backward()
    for ours, theirs in zip(on_gpu.parameters(), on_cpu.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad, rtol=1e-3, atol=1e-5)


@CUDA
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_on_a_gpu_other_documents_compile_nothing_anew() -> None:
    model = build(ModelConfig(layers=1, width=128, heads=4), VOCAB, EOT, seed=0).cuda()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(3):
            tokens = documents()
            tokens[:, 20 + seed] = EOT
            model(tokens.cuda(), loss=True).total.backward()


@CUDA
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_on_a_gpu_both_halves_of_flex_are_compiled() -> None:
    assert attention._compiled(flex_attention) is not flex_attention
    assert attention._compiled(create_block_mask) is attention._compiled(create_block_mask)
