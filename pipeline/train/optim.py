"""AdamW over groups: matrices decay, vectors do not, and with `model.base_width` the blocks' matrices have their own
rate."""

from typing import Any

import torch

from pipeline.config import OptimizerConfig
from pipeline.model.decoder import Decoder
from pipeline.model.width import multipliers


def decay_groups(model: Decoder, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for decoupled decay on tensors of two dimensions or more, and none on norms.

    A group's learning rate is to be multiplied with its `lr_multiplier`. While all are 1 there are two groups, matrices
    and vectors; engine states on disk rely on that and on their order.
    """
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        kind, scale = "matrices" if parameter.ndim >= 2 else "vectors", multipliers(name, model.config)
        decay = weight_decay * scale.weight_decay if kind == "matrices" else 0.0
        group = {"params": [], "weight_decay": decay, "lr_multiplier": scale.lr, "name": kind}
        groups.setdefault((kind, scale.lr), group)["params"].append(parameter)
    return list(groups.values())


def adamw(model: Decoder, config: OptimizerConfig) -> torch.optim.AdamW:
    """PyTorch's fused AdamW (Loshchilov and Hutter, 2017): the same kernel on CPU and GPU, and no extension to
    compile."""
    return torch.optim.AdamW(
        decay_groups(model, config.weight_decay), lr=config.lr, betas=config.betas, eps=config.eps, fused=True
    )
