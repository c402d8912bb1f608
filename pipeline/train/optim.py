"""Optimizers: AdamW over groups, matrices that decay and vectors that do not; or Muon for the blocks' matrices.

A group's learning rate is the schedule's, multiplied with the group's `lr_multiplier`. With `model.base_width` AdamW
has the blocks' matrices in a group of their own.
"""

from typing import Any

import torch
from torch import nn

from pipeline.config import OptimizerConfig
from pipeline.model.decoder import Decoder
from pipeline.model.width import multipliers

MATRICES_FOR_ADAMW = ("embedding", "output")
"""Modules whose matrices Muon leaves alone: their rows are tokens, not directions (Jordan et al., 2024)."""


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


def adamw(model: Decoder, config: OptimizerConfig) -> torch.optim.Optimizer:
    """PyTorch's fused AdamW (Loshchilov and Hutter, 2017): the same kernel on CPU and GPU, and no extension to
    compile."""
    return torch.optim.AdamW(
        decay_groups(model, config.weight_decay), lr=config.lr, betas=config.betas, eps=config.eps, fused=True
    )


def muon(model: Decoder, config: OptimizerConfig) -> torch.optim.Optimizer:
    """DeepSpeed's Muon (Jordan et al., 2024) for the blocks' matrices, and AdamW for all else.

    Its config's `type: muon` would make the same class, but build AdamW's half by an extension that has to be compiled,
    and choose the matrices by looking for "embed" and "lm_head" in their names. ZeRO finds a parameter's half by its
    attribute `use_muon`.
    """
    groups = []
    for group in decay_groups(model, config.weight_decay):
        for parameter in group["params"]:
            parameter.use_muon = False
        groups += [part for part in split(group, hidden_matrices(model), config) if part["params"]]
    optimizer: torch.optim.Optimizer = muon_class()(
        groups, adam_optimizer=torch.optim.AdamW, adam_optimizer_kwargs={"fused": True}
    )
    return optimizer


def split(group: dict[str, Any], hidden: set[nn.Parameter], config: OptimizerConfig) -> list[dict[str, Any]]:
    """A group's two halves: what Muon trains, and the rest; either may be empty.

    Muon's rate and decay are not scaled by the width: its updates have the same spectral norm at every width, which is
    what `base_width` gives AdamW's (Yang et al., "A Spectral Condition for Feature Learning", 2023).
    """
    by_muon: dict[str, Any] = {
        "params": [parameter for parameter in group["params"] if parameter in hidden],
        "name": f"{group['name']}-muon",
        "use_muon": True,
        "lr": config.muon_lr,
        "lr_multiplier": config.muon_lr / config.lr,
        "weight_decay": config.weight_decay,
        "momentum": config.muon_momentum,
    }
    by_adamw: dict[str, Any] = {
        "params": [parameter for parameter in group["params"] if parameter not in hidden],
        "use_muon": False,
        "lr": config.lr,
        "betas": config.betas,
        "eps": config.eps,
    }
    for parameter in by_muon["params"]:
        parameter.use_muon = True
    return [{**group, **by_muon}, {**group, **by_adamw}]


def hidden_matrices(model: Decoder) -> set[nn.Parameter]:
    """The matrices of the blocks."""
    named = model.named_parameters()
    return {one for name, one in named if one.ndim >= 2 and name.split(".")[0] not in MATRICES_FOR_ADAMW}


def muon_class() -> Any:
    """DeepSpeed's optimizer class. Importing it wraps its kernels in torch.compile, which on a CPU would take a C++
    compiler and a minute: there they are imported as they are."""
    compiled = torch.compile
    if not torch.cuda.is_available():
        torch.compile = lambda function: function  # type: ignore[assignment]
    try:
        from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam
    finally:
        torch.compile = compiled
    return MuonWithAuxAdam


OPTIMIZERS = {"adamw": adamw, "muon": muon}


def optimizer_of(model: Decoder, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that a config asks for, for DeepSpeed to shard."""
    return OPTIMIZERS[config.kind](model, config)
