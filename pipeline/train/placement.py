"""Where each of a model's parameters goes as soon as it is drawn, so that a rank never holds the model in host memory.

    outline ──draw one──> fp32, on the host ──round──> as it is trained ──┬──> stages 0 to 2: this rank's device
                                                                          └──> stage 3: cut, a share on each rank

What is unusual: at ZeRO stage 3 DeepSpeed's way to build a large model is `with deepspeed.zero.Init():` around the
constructor. It replaces the constructor of every module class, and cuts each layer as that is made, with numbers that
have to be gathered, drawn anew and cut again. We draw first, and hand it the finished parameters one at a time.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pipeline.config import TrainConfig
from pipeline.model.decoder import Place


def placement(train: TrainConfig, settings: Mapping[str, Any]) -> Place:
    """What is to be done with a parameter that has been drawn. `settings`: DeepSpeed's. All ranks place the same
    parameters in the same order; every one gets rank 0's numbers."""
    dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
    return cutting(dtype, settings) if train.zero.stage == 3 else moving(dtype)


def moving(dtype: torch.dtype) -> Place:
    """To this rank's device. DeepSpeed would do the same, with the whole model at once."""
    from deepspeed.accelerator import get_accelerator

    device = get_accelerator().current_device_name()

    def place(parameter: nn.Parameter) -> None:
        parameter.data = parameter.data.to(device, dtype)

    return place


def cutting(dtype: torch.dtype, settings: Mapping[str, Any]) -> Place:
    """Into a share for each rank, where stage 3 keeps it: on the device, or on the host with `offload_param`."""
    import deepspeed
    from deepspeed.utils import groups

    init = deepspeed.zero.Init(
        module=nn.Module(),  # with a module it sets itself up as the engine would, and wraps no constructors
        config_dict_or_path=dict(settings),
        zero_param_parallel_group=groups._get_zero_param_intra_parallel_group(),  # it makes one, and only one a process
    )

    def place(parameter: nn.Parameter) -> None:
        parameter.data = parameter.data.to(dtype)
        init._convert_to_zero_parameters([parameter])

    return place
