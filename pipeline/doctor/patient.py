"""What is examined: the run as it was asked for, the same made small, and the world that it would train in."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from cluster.world import World
from pipeline.config import RunConfig
from pipeline.plan.estimate import Plan
from pipeline.workspace import RunFolder, Workspace


@dataclass(frozen=True, kw_only=True)
class Patient:
    config: RunConfig
    small: RunConfig
    vocab_size: int
    """Of the small model."""
    plan: Plan | None
    """Of the real one, on these devices; None if the size of its vocabulary is not known yet."""
    timed: bool
    """Whether the plan knows the devices, and so its times mean something here."""
    workspace: Workspace
    folder: RunFolder
    """The examination's own, inside the run's."""
    world: World
    device: torch.device
    group: Any
    """Of all ranks over gloo: for words and clocks, beside whatever moves tensors."""

    def together(self) -> None:
        """Waits until all ranks are here."""
        dist.barrier(group=self.group)

    def gathered(self, own: Any) -> list[Any]:
        """What each rank has to say, in the order of the ranks."""
        said: list[Any] = [None] * self.world.size
        dist.all_gather_object(said, own, group=self.group)
        return said
