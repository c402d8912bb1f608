"""DeepSpeed's ZeRO stages 1 and 2 go over a model's gradients many times a step; on a CPU each time costs most of a per
cent of a small model's step (docs/lab-notes.md). Here they go fewer times, to the same bits: the copies surely, the
norm once it is rounded to fp32.

What is replaced is three methods of one optimizer object, each by one that gives what the method gives. A DeepSpeed
without such a method is left as it is.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

BLOCK = 2**17
"""Elements whose fp64 copy, 1 MB, stays in a core's cache."""


def spare_passes(optimizer: Any) -> None:
    """For DeepSpeed's optimizer of stages 1 and 2, or another, which is left alone."""
    if type(optimizer).__name__ != "DeepSpeedZeroOptimizer":
        return
    replaced = ("copy_grads_in_partition", "_get_preflattened_grad_partition")
    if stay_in_the_bucket(optimizer) and all(hasattr(optimizer, name) for name in replaced):
        # A reduced gradient is copied out of the bucket, which the next bucketful would overwrite; there is none.
        optimizer.copy_grads_in_partition = lambda *parameter_and_group: None
        optimizer._get_preflattened_grad_partition = _found_flat(optimizer)
    if torch.device(optimizer.device).type == "cpu" and hasattr(optimizer, "get_grad_norm_direct"):
        optimizer.get_grad_norm_direct = _of_norms(optimizer.get_grad_norm_direct)


def stay_in_the_bucket(optimizer: Any) -> bool:
    """Whether all gradients of a step lie in one bucket, one behind the other and in the masters' type, until the step
    is done. A bucket is new with each backward pass, and in stage 1 only the last one of a step fills it."""
    parameters = [parameter for group in optimizer.bit16_groups for parameter in group]
    return (
        not optimizer.partition_gradients  # that is stage 2
        and not optimizer.cpu_offload
        and not optimizer.overlap_comm
        and optimizer.contiguous_gradients
        and optimizer.dtype == optimizer.gradient_accumulation_dtype == torch.float32
        and not any(getattr(parameter, "use_muon", False) for parameter in parameters)  # has its own way with them
        and sum(parameter.numel() for parameter in parameters) <= optimizer.reduce_bucket_size
    )


def _found_flat(optimizer: Any) -> Any:
    """What DeepSpeed asks before it makes one tensor of a group's gradients: whether there is one already."""
    own_answer = optimizer._get_preflattened_grad_partition

    def flat_gradients(group: int) -> Tensor | None:
        made = own_answer(group)
        return as_one(optimizer.averaged_gradients[group]) if made is None else cast(Tensor, made)

    return flat_gradients


def as_one(tensors: Sequence[Tensor]) -> Tensor | None:
    """The tensors end to end, (sum of sizes,), as a view; None if they do not lie so in memory."""
    first = tensors[0]
    end = first.storage_offset()
    for tensor in tensors:
        same = tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() and tensor.dtype == first.dtype
        if not (same and tensor.storage_offset() == end and tensor.is_contiguous()):
            return None
        end += tensor.numel()
    return first.as_strided((end - first.storage_offset(),), (1,))


def _of_norms(norm_of: Any) -> Any:
    """DeepSpeed's norm of some gradients over all ranks, fed with each one's own norm in its place: it makes a whole
    fp64 copy of whatever it is fed."""

    def of_gradients(gradients: Sequence[Tensor], *parameters: Any, **options: Any) -> Any:
        padding = [getattr(gradient, "_zero_padding", False) for gradient in gradients]  # DeepSpeed leaves it out
        norms = [one if pads else l2_norm(one) for one, pads in zip(gradients, padding, strict=True)]
        return norm_of(norms, *parameters, **options)

    return of_gradients


def l2_norm(tensor: Tensor) -> Tensor:
    """The norm in fp64, of any shape, as a tensor of none. By blocks: half the time of a copy of all."""
    blocks = (block.double() for block in torch.split(tensor.detach().reshape(-1), BLOCK))
    return torch.stack([torch.dot(block, block) for block in blocks]).sum().sqrt()
