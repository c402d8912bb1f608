"""Does every rank get a GPU of its own? A mistake that CUDA would tell as an invalid device ordinal."""

from cluster.processes import host_name
from cluster.world import World
from pipeline.errors import Mistake


def check_gpus(world: World, gpus: int) -> None:
    """Raises Mistake if this rank would get none. gpus: that it sees."""
    if not gpus or world.local_rank < gpus:
        return
    what, where = f"{gpus} GPU{'s' if gpus > 1 else ''}", host_name()
    alone = "; if each rank was given one alone (srun --gpus-per-task, --gpu-bind), let all see all of them instead"
    raise Mistake(
        f"cluster.processes_per_node: {where} has {what} for {world.local_size} ranks; "
        f"set it to {gpus}, or ask for more GPUs{alone if gpus == 1 else ''}"
    )
