"""Generating with a cache gives what generating without one gives, also beyond the length trained on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ModelConfig
from pipeline.model.decoder import Decoder, build
from pipeline.model.generate import choose, generate, opened_document, window_start

EOT, VOCAB, CONTEXT = 0, 97, 16
SHAPES = [
    {"heads": 4, "kv_heads": 4},
    {"heads": 4, "kv_heads": 2},
    {"heads": 4, "kv_heads": 1, "tie_embeddings": True},
    {"heads": 2, "kv_heads": None, "tie_embeddings": True, "rope_theta": 100.0},
]
PROMPTS = [[], [5], [7, 8, 9, 10], list(range(1, CONTEXT)), list(range(1, 40)), [3, 4, EOT, 5, 6]]


def model_of(shape: dict[str, object]) -> Decoder:
    """Its logit of end-of-text is always near 0, so never among the highest, and its texts run on."""
    model = build(ModelConfig(layers=3, width=32, **shape), VOCAB, EOT, seed=3).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        model.output.weight[EOT] *= 0.1
    return model


@torch.inference_mode()
def without_cache(model: Decoder, prompt: list[int], max_tokens: int) -> list[int]:
    """Greedy, the plain way: the whole window through the model for each token, with the mask that training uses."""
    tokens, new = [EOT, *prompt], []
    base = max(at for at, token in enumerate(tokens) if token == EOT)
    for _ in range(max_tokens):
        window = tokens[base + window_start(len(tokens) - base, CONTEXT) :]
        assert len(window) <= CONTEXT
        new.append(int(model(torch.tensor([window]))[0, -1].argmax()))
        if new[-1] == EOT:
            return new[:-1]
        tokens.append(new[-1])
    return new


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_greedy_text_is_that_without_a_cache(shape: dict[str, object], prompt: list[int]) -> None:
    model = model_of(shape)
    settings = {"context": CONTEXT, "temperature": 0.0, "top_k": 1, "seed": 0}
    text = generate(model, prompt, max_tokens=60, **settings)  # type: ignore[arg-type]
    assert text == without_cache(model, prompt, 60)
    assert len(text) == 60


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_cached_logits_are_those_of_the_whole_row(shape: dict[str, object]) -> None:
    """In pieces of any size, also for several documents side by side."""
    model = model_of(shape)
    tokens_BT = torch.randint(1, VOCAB, (3, CONTEXT))
    tokens_BT[:, 0] = EOT
    whole_BTV = model(tokens_BT)
    cache = model.empty_cache(CONTEXT, batch_size=3)
    end = 0
    for piece in (5, 1, 1, 6, 3):
        end += piece
        logits_BV = model.next_logits(tokens_BT[:, end - piece : end], cache)
        torch.testing.assert_close(logits_BV, whole_BTV[:, end - 1], rtol=1e-4, atol=1e-5)


def test_a_full_cache_is_an_invariant() -> None:
    model = model_of(SHAPES[0])
    cache = model.empty_cache(4)
    model.next_logits(torch.tensor([[EOT, 1, 2, 3]]), cache)
    with pytest.raises(AssertionError, match="full"):
        model.next_logits(torch.tensor([[4]]), cache)


@given(length=st.integers(1, 10_000), context=st.integers(2, 300))
def test_a_window_fits_and_holds_at_least_half(length: int, context: int) -> None:
    begin = window_start(length, context)
    assert length - begin <= context
    assert begin == 0 if length <= context else length - begin >= context // 2
    assert begin <= window_start(length + 1, context)


def test_each_token_goes_through_the_model_about_once() -> None:
    model = model_of(SHAPES[1])
    positions: list[int] = []
    model.embedding.register_forward_pre_hook(lambda _, inputs: positions.append(inputs[0].numel()))
    text = generate(model, [1, 2, 3], max_tokens=100, context=CONTEXT, temperature=1.0, top_k=5, seed=1)
    assert len(text) == 100
    assert sum(positions) <= 2 * 100 + CONTEXT


def test_a_prompt_counts_from_its_last_end_of_text() -> None:
    assert opened_document([3, 4], EOT) == [EOT, 3, 4]
    assert opened_document([3, EOT, 4], EOT) == [EOT, 4]
    assert opened_document([3, EOT], EOT) == [EOT]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-40, 1e-4])
def test_near_temperature_0_it_takes_the_likeliest(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_V = torch.tensor([1.0, 3.0, -2.0, 2.5])
    assert {choose(logits_V, temperature, 3, generator) for _ in range(20)} == {1}


def test_tokens_are_drawn_as_often_as_their_logits_say() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_V = torch.tensor([0.4, 0.3, 0.2, 0.1, 1e-9]).log() * 2
    drawn = torch.bincount(torch.tensor([choose(logits_V, 2.0, 4, generator) for _ in range(4000)]), minlength=5)
    torch.testing.assert_close(drawn / 4000, torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0]), rtol=0, atol=0.03)
