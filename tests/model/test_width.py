"""With `base_width`, what a step changes is the same at every width (Yang et al., 2022, appendix D: coordinate
check)."""

from dataclasses import replace

import pytest
import torch

from pipeline.config import ModelConfig, OptimizerConfig
from pipeline.model.decoder import Decoder, build
from pipeline.model.width import Multipliers, multipliers, width_ratio
from pipeline.train.optim import adamw, decay_groups

EOT, VOCAB, BASE = 0, 64, 32
WIDTHS = [32, 128, 512]


def of_width(width: int, base_width: int | None, *, tied: bool = False) -> Decoder:
    shape = ModelConfig(layers=2, width=width, heads=width // 16, tie_embeddings=tied, base_width=base_width)
    return build(shape, VOCAB, EOT, seed=0)


def after_steps(model: Decoder, steps: int = 3) -> tuple[float, float]:
    """How far a few steps on one batch lower the loss, and how much (root mean square) they move the last block's
    output."""
    tokens = torch.tensor([[1], [5], [9], [20]])
    for _ in range(31):  # each token says which one is next
        tokens = torch.cat([tokens, (tokens[:, -1:] * 5 + 3) % (VOCAB - 1) + 1], dim=1)
    hidden: list[torch.Tensor] = []
    model.norm.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0].detach()))
    optimizer = adamw(model, OptimizerConfig(lr=1.0))
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group["lr_multiplier"]
    losses = []
    for _ in range(steps + 1):
        optimizer.zero_grad()
        losses.append(model(tokens, loss=True))
        losses[-1].total.backward()
        optimizer.step()
    moved = (hidden[-1] - hidden[0]).square().mean().sqrt()
    return float(losses[0].cross_entropy - losses[-1].cross_entropy), float(moved)


@pytest.mark.parametrize("tied", [False, True])
def test_a_few_steps_do_alike_at_every_width(tied: bool) -> None:
    falls, moves = zip(*(after_steps(of_width(width, BASE, tied=tied)) for width in WIDTHS), strict=True)
    assert max(falls) / min(falls) < 1.2, falls
    assert max(moves) / min(moves) < 1.5, moves


def test_without_a_base_width_wide_models_go_further() -> None:
    falls, moves = zip(*(after_steps(of_width(width, None)) for width in WIDTHS), strict=True)
    assert falls[-1] / falls[0] > 2, falls
    assert moves[-1] / moves[0] > 2, moves


def test_at_the_base_width_nothing_changes() -> None:
    plain, based = of_width(BASE, None), of_width(BASE, BASE)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), based.parameters(), strict=True))
    tokens = torch.randint(1, VOCAB, (2, 16))
    assert torch.equal(plain(tokens), based(tokens))
    assert len(decay_groups(based, 0.1)) == 2


def test_each_parameter_has_the_multipliers_of_the_table() -> None:
    config = of_width(128, BASE).config
    assert width_ratio(config) == 4
    scaled, plain = Multipliers(lr=0.25, weight_decay=4.0), Multipliers()
    names = dict(build(replace(config, qk_norm=True), VOCAB, EOT, seed=0).named_parameters())
    for name, parameter in names.items():
        hidden = name.startswith("blocks.") and parameter.ndim == 2
        assert multipliers(name, config) == (scaled if hidden else plain), name
        assert multipliers(name, replace(config, base_width=None)) == plain


def test_the_optimizer_has_a_group_for_each_rate_and_every_parameter_once() -> None:
    model = of_width(128, BASE)
    groups = decay_groups(model, 0.1)
    figures = [(group["name"], group["lr_multiplier"], group["weight_decay"]) for group in groups]
    assert figures == [("matrices", 1.0, 0.1), ("vectors", 1.0, 0.0), ("matrices", 0.25, 0.4)]
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())
