"""Learning rates that hold for every width: found on a narrow model, used on a wide one.

Maximal update parametrisation for Adam (Yang et al., "Tensor Programs V", 2022, table 8, the form that allows tied
embeddings). With r = width / base_width:

                      first variance      learning rate    decay      forward
    embedding         ~ 1 / base_width    × 1              × 1
    blocks' matrices  ~ 1 / width         × 1/r            × r
    norms' gains      1                   × 1              none
    output layer      ~ 1 / base_width    × 1              × 1        logits × 1/r

At width = base_width, and without a base_width, this is the usual parametrisation. Decay grows by what the rate
shrinks, as in the authors' package (microsoft/mup, `MuAdam`): AdamW multiplies the two. Widen by more heads of the same
size: attention's 1 / √head size is then the same number at every width. No torch.
"""

from dataclasses import dataclass

from pipeline.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Multipliers:
    """Of one group of parameters."""

    lr: float = 1.0
    weight_decay: float = 1.0


def width_ratio(config: ModelConfig) -> float:
    return config.width / (config.base_width or config.width)


def multipliers(name: str, config: ModelConfig) -> Multipliers:
    """What a parameter's learning rate and weight decay are multiplied with, by its name in the model."""
    ratio = width_ratio(config)
    is_hidden = name.startswith("blocks.") and not name.endswith("norm.weight")
    return Multipliers(lr=1 / ratio, weight_decay=ratio) if is_hidden else Multipliers()
