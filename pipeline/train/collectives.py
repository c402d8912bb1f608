"""What the ranks of a run tell each other, besides gradients: means, what rank 0 has done, what each has done.

An error on one rank is the same error on all: nobody waits for one that has failed, and all take the same way on.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch.distributed as dist
from torch import Tensor

from cluster.world import World
from pipeline.errors import HEADRACE_ERRORS, PipelineError

Made = TypeVar("Made")


def averaged(values: Tensor, world: World) -> list[float]:
    """The mean of each value over the ranks, in one all-reduce."""
    dist.all_reduce(values)
    return [float(value) / world.size for value in values.tolist()]


def from_main(make: Callable[[], Made], world: World) -> Made:
    """What rank 0 makes, on all ranks. What it raises is raised on all of them."""
    if world.size == 1:
        return make()
    made, failure = _attempt(make) if world.is_main else (None, None)
    told = [(made, _for_others(failure, 0))]
    dist.broadcast_object_list(told)
    [(made, theirs)] = told
    if failed := failure or theirs:
        raise failed
    return cast(Made, made)


def from_all(make: Callable[[], Made], world: World) -> list[Made]:
    """What every rank makes, in their order, on all of them. If some raise, what the first of these raises is raised on
    all."""
    if world.size == 1:
        return [make()]
    made, failure = _attempt(make)
    told: list[Any] = [None] * world.size
    dist.all_gather_object(told, (made, _for_others(failure, world.rank)))
    for rank, (_, theirs) in enumerate(told):
        if theirs:
            raise failure if failure and rank == world.rank else theirs
    return [made for made, _ in told]


def _attempt(make: Callable[[], Made]) -> tuple[Made | None, Exception | None]:
    try:
        return make(), None
    except Exception as error:
        return None, error


def _for_others(failure: Exception | None, rank: int) -> Exception | None:
    """In its own words if it is one of our errors. Another kind may not be pickled."""
    if failure is None or isinstance(failure, HEADRACE_ERRORS):
        return failure
    return PipelineError(f"rank {rank}: {failure!r}")
