"""The DeepSpeed engine: its settings as a pure function of ours, and the few calls that the loop makes."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import distributed_c10d

from cluster.meeting import while_all_come
from cluster.world import World, world_env
from pipeline.config import TrainConfig
from pipeline.errors import StoppedOnNotice
from pipeline.model.decoder import Decoder, initialise
from pipeline.model.ulysses import find_peers
from pipeline.train.elastic import forget_trial_step
from pipeline.train.malloc import keep_freed_memory
from pipeline.train.optim import optimizer_of
from pipeline.train.passes import spare_passes
from pipeline.train.placement import placement
from pipeline.train.repeatable import repeat_bits
from pipeline.train.stragglers import Stopwatch

PATIENCE = timedelta(days=8)
"""How long ranks wait for one another in a collective. The run's watchdog, who knows how long a step may take and says
what has happened, ends the wait before. DeepSpeed's and NCCL's own 10 minutes are over while rank 0 still reads a large
checkpoint, and then end the process without a word of ours."""


def deepspeed_config(train: TrainConfig, world_size: int, num_parameters: int) -> dict[str, Any]:
    """DeepSpeed's own settings. What it would choose by itself and has changed between releases is spelled out."""
    accumulation = train.accumulation(world_size)
    settings: dict[str, Any] = {
        # Peers that share sequences are to DeepSpeed ranks with sequences of their own: each brings a mean over its
        # slices, and the mean over all ranks is the batch's.
        "train_batch_size": accumulation * train.micro_batch_size * world_size,
        "train_micro_batch_size_per_gpu": train.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": train.optimizer.gradient_clipping,
        # A norm that is not a number is told as infinite, and its update not made; without it, as DeepSpeed's -1.
        # Each bf16 gradient is added to its fp32 sum as it comes, and freed: else all of them are kept, and set to 0
        # and added to once more in every micro-batch. The sums are the same to the bit.
        "bf16": {
            "enabled": train.precision == "bf16",
            "check_grad_overflow": True,
            "immediate_grad_update": True,
        },
        # By itself it takes the model's: BF16_Optimizer rounds its fp32 sums once more, with one rank too.
        "communication_data_type": train.reduce_dtype,
        "zero_optimization": zero_settings(train, num_parameters),
        "zero_allow_untested_optimizer": train.optimizer.kind == "muon",  # its own, but only tested when it makes it
        "zero_force_ds_cpu_optimizer": False,  # ours is torch's fused AdamW: no extension to compile
        "steps_per_print": 2**62,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device twice in every micro-batch
    }
    if train.zero.stage > 0:  # without sharding DeepSpeed accumulates in the model's own precision only
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings


def zero_settings(train: TrainConfig, num_parameters: int) -> dict[str, Any]:
    """What shards over the ranks, and how it travels."""
    zero = train.zero
    settings: dict[str, Any] = {
        "stage": zero.stage,
        "overlap_comm": False,  # it has a long list of wrong-gradient reports (DeepSpeed issues); exact first
        "reduce_bucket_size": zero.reduce_bucket(num_parameters),
    }
    for key in ("offload_optimizer", "offload_param"):
        if getattr(zero, key) != "none":
            settings[key] = {"device": getattr(zero, key), "pin_memory": torch.cuda.is_available()}
    if zero.stage in (1, 2):
        # What it calls a reduce-scatter is an all-reduce over copies (allreduce_and_scatter): two per cent of a step on
        # a CPU. Without it the bucket itself is reduced. With it stage 2 also divides in bf16, which three ranks round;
        # and a Muon matrix that follows a norm in the bucket takes its place, so that the norm is fed zeros (0.19.8,
        # average_tensor: merged ranges lose their output).
        settings["reduce_scatter"] = False
    if zero.stage == 3:
        for key in ("zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_gradients"):
            settings[key] = getattr(zero, key)
    if zero.stage == 3 and train.optimizer.kind == "muon":
        settings["reduce_scatter"] = False  # Muon needs whole gradients
    return settings


def join_world(world: World) -> None:
    """Starts torch.distributed through DeepSpeed: NCCL on GPUs, gloo on CPUs."""
    os.environ.update(world_env(world))
    repeat_bits()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed calls collectives by names that torch has renamed; nothing a user could do about it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank)
    else:
        # Its shared-memory all-reduce would compile for over a minute at the first start, and needs a C++ compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        keep_freed_memory()
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(dist_backend=backend, timeout=PATIENCE, verbose=False)


@contextlib.contextmanager
def in_world(world: World) -> Iterator[None]:
    """Joins the other ranks, and leaves them at an orderly end: without that a rank was once seen to abort when it
    exited, with threads still running. After an error nobody is waited for."""
    with while_all_come(world.rank):
        join_world(world)
    try:
        yield
    except StoppedOnNotice:
        torch.distributed.destroy_process_group()
        raise
    torch.distributed.destroy_process_group()


def seed_rank(train: TrainConfig, world: World) -> None:
    """Gives each rank random numbers of its own; checkpoints hold the generators."""
    torch.manual_seed(train.seed + world.rank)


def start_engine(
    model: Decoder,
    train: TrainConfig,
    world: World,
    zero: Mapping[str, Any] | None = None,
    *,
    first_weights: bool = True,
) -> Any:
    """Gives an outline its first weights, a function of `train.seed`, and hands it to DeepSpeed. The same engine type
    serves every ZeRO stage. `zero` overrides its own settings. Without `first_weights` all are 0, for a checkpoint to
    be loaded.

    A rank holds one parameter at most beyond what it keeps, in host and in device memory.
    """
    import deepspeed

    assert all(parameter.is_meta for parameter in model.parameters()), "weights that are there would be drawn again"
    model.share_sequences(find_peers(train.sequence_parallel))
    settings = deepspeed_config(train, world.size, sum(one.numel() for one in model.parameters()))
    settings["zero_optimization"] |= zero or {}
    if train.zero.stage == 3 and model.config.compile == "block":
        # Weights are gathered a block at a time, around its one graph. A hook at each module inside would break it.
        for block in model.blocks:
            deepspeed.utils.set_z3_leaf_module(block, True)
    optimizer = optimizer_of(model, train.optimizer)  # groups by shapes, and a parameter that has been cut has none
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its memory use
        initialise(model, train.seed if first_weights else None, placement(train, settings))
        engine, _, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    for group in distributed_c10d._world.pg_map:  # DeepSpeed makes them without being asked how long
        distributed_c10d._set_pg_timeout(PATIENCE, group)
    forget_trial_step(engine)
    spare_passes(engine.optimizer)
    return engine


def set_learning_rate(engine: Any, rate: float) -> None:
    """We set the rate before each step ourselves: a schedule inside the engine stands still when the engine skips a
    step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group.get("lr_multiplier", 1.0)  # engine states of before have none


def host_buffer(shape: tuple[int, int], dtype: str) -> NDArray[Any]:
    """Memory that batches are read into; with a GPU it is pinned, so that they can be copied beside what else goes
    on."""
    return torch.empty(shape, dtype=getattr(torch, dtype), pin_memory=torch.cuda.is_available()).numpy()


def train_step(engine: Any, batch: NDArray[Any]) -> tuple[Tensor, float, float]:
    """One optimizer step over this rank's micro-batches, (accumulation, B, T) token ids of any integer type; peers that
    share sequences are given the same.

    The accumulation follows the batch, whose size may change from step to step. DeepSpeed would find a step's end by
    counting micro-batches from the engine's first, which comes out wrong after such a change: it is told where it is.
    Gives this rank's mean cross entropy and z-loss, (2,) in fp64; the global norm of the gradient before it was
    clipped; and the seconds of this rank's forward passes.
    """
    forward = Stopwatch(engine.device)
    loss_sums = torch.zeros(2, dtype=torch.float64, device=engine.device)
    grad_norm = None
    engine.set_train_batch_size(len(batch) * engine.train_micro_batch_size_per_gpu() * engine.dp_world_size)
    for at, tokens in enumerate(torch.from_numpy(batch).to(engine.device, non_blocking=True).long()):
        is_last = at + 1 == len(batch)
        engine.set_gradient_accumulation_boundary(is_last)
        with forward.running():
            losses = engine(tokens, loss=True)
        engine.backward(losses.total)
        if engine.zero_optimization_stage() == 0 and is_last:
            grad_norm = _grad_norm(engine)  # the engine clips but does not tell
        engine.step()
        loss_sums += torch.stack((losses.cross_entropy, losses.z_loss))
    norm = float(engine.get_global_grad_norm() if grad_norm is None else grad_norm)  # waits for the device
    return loss_sums / len(batch), norm, forward.seconds()


def _grad_norm(engine: Any) -> Tensor | None:
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else None
