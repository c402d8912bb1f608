"""AdamW over two groups: matrices decay, vectors do not."""

import torch
from torch import nn

from pipeline.config import OptimizerConfig


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups for decoupled decay on tensors of two dimensions or more, and none on norms."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay, "name": "matrices"},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, "name": "vectors"},
    ]


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """PyTorch's fused AdamW (Loshchilov and Hutter, 2017): the same kernel on CPU and GPU, and no extension to
    compile."""
    return torch.optim.AdamW(
        decay_groups(model, config.weight_decay), lr=config.lr, betas=config.betas, eps=config.eps, fused=True
    )
