"""The model: attention stays inside a document, the loss counts what it should, and the first weights are sane."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ModelConfig
from pipeline.model.attention import document_mask, document_numbers
from pipeline.model.decoder import Decoder, build, initialise, outline
from pipeline.model.generate import generate
from pipeline.model.layers import rotary, rotate
from pipeline.model.loss import IGNORE, next_token_loss, next_token_targets

EOT = 0
VOCAB = 50


def small(**changes: object) -> Decoder:
    settings = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2} | changes
    return build(ModelConfig(**settings), VOCAB, EOT, seed=0)  # type: ignore[arg-type]


def test_documents_in_one_row_score_as_they_do_alone() -> None:
    """The heart of document masking: two documents packed into a row give the logits that each gives by itself."""
    model = small()
    first, second = torch.tensor([EOT, 5, 6, 7, 8]), torch.tensor([EOT, 9, 10, 11])
    packed = model(torch.cat([first, second])[None])
    alone = torch.cat([model(first[None]), model(second[None])], dim=1)
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


def test_no_position_sees_the_future() -> None:
    model = small()
    tokens = torch.randint(1, VOCAB, (1, 16))
    changed = tokens.clone()
    changed[0, 10:] = (changed[0, 10:] + 1) % (VOCAB - 1) + 1
    torch.testing.assert_close(model(tokens)[:, :10], model(changed)[:, :10], rtol=0, atol=0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=24))
def test_mask_is_what_its_words_say(row: list[int]) -> None:
    mask = document_mask(document_numbers(torch.tensor([row]), EOT))[0, 0]
    for query in range(len(row)):
        opens = max((at for at in range(query + 1) if row[at] == EOT), default=0)
        assert mask[query].tolist() == [opens <= key <= query for key in range(len(row))]


def test_targets_are_the_next_tokens_and_padding_is_ignored() -> None:
    row = torch.tensor([[3, 4, EOT, 5, EOT, EOT, EOT]])
    assert next_token_targets(row, EOT).tolist() == [[4, EOT, 5, EOT, IGNORE, IGNORE, IGNORE]]


def test_loss_is_the_same_for_every_split_into_micro_batches() -> None:
    model = small()
    tokens = torch.randint(0, VOCAB, (8, 16))
    whole = next_token_loss(model(tokens), tokens, EOT)
    parts = torch.stack([next_token_loss(model(part), part, EOT) for part in tokens.split(2)])
    torch.testing.assert_close(whole, parts.mean(), rtol=1e-5, atol=1e-6)


def test_first_loss_is_that_of_guessing() -> None:
    tokens = torch.randint(1, VOCAB, (4, 64))
    loss = next_token_loss(small(width=64)(tokens), tokens, EOT)
    assert abs(loss.item() - math.log(VOCAB)) < 0.5


def test_first_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = small()
    torch.manual_seed(2)
    two = small()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_without_a_seed_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 70B it takes minutes, and a checkpoint is loaded next."""
    model = outline(ModelConfig(layers=1, width=32, heads=2), VOCAB, EOT)
    monkeypatch.setattr(torch.Tensor, "normal_", None)
    initialise(model, None)
    assert not any(parameter.any() for parameter in model.parameters())


def test_tied_embeddings_share_one_tensor() -> None:
    model = small(tie_embeddings=True)
    assert model.output.weight is model.embedding.weight
    assert sum(p.numel() for p in small().parameters()) - sum(p.numel() for p in model.parameters()) == VOCAB * 32


def test_rotary_keeps_norms_and_depends_on_distance_only() -> None:
    cos, sin = rotary(32, 8, 10_000.0, torch.device("cpu"))
    query, key = torch.randn(8), torch.randn(8)
    rotated_q = rotate(query.expand(1, 1, 32, 8), cos, sin)[0, 0]
    rotated_k = rotate(key.expand(1, 1, 32, 8), cos, sin)[0, 0]
    torch.testing.assert_close(rotated_q.norm(dim=-1), query.norm().expand(32))
    torch.testing.assert_close(rotated_q[9] @ rotated_k[4], rotated_q[25] @ rotated_k[20], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generate_is_repeatable_and_bounded(temperature: float) -> None:
    def once() -> list[int]:
        return generate(small(), [3, 4], max_tokens=40, context=16, temperature=temperature, top_k=10, seed=1)

    assert once() == once()
    assert len(once()) <= 40
    assert EOT not in once()
