"""The plan of a run: what it will take, as one record, before anything is submitted."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.batches import BatchStage
from pipeline.config import RunConfig, check_batch
from pipeline.plan.changes import Stretch, stretches
from pipeline.plan.hardware import Hardware, usable_bytes
from pipeline.plan.memory import STAGES, Memory, Stage, checkpoint_bytes, memory
from pipeline.plan.shape import Flops, Parameters, count_parameters, flops_per_token
from pipeline.plan.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One ZeRO stage on one device."""

    stage: Stage
    memory: Memory
    fits: bool | None
    """Whether the config's micro-batch fits; None if the device's memory is not known."""
    largest_micro_batch: int | None
    """The most sequences that fit at once; 0 if not even one does."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    run: str
    vocabulary: Vocabulary
    parameters: Parameters
    flops_per_token: Flops
    hardware: Hardware
    total_steps: int
    total_tokens: int
    """In whole steps."""
    tokens_per_step: int
    """After the stages of batch warm-up."""
    batch_stages: tuple[BatchStage, ...]
    """What the steps are in batch warm-up."""
    stretches: tuple[Stretch, ...]
    """From which step on with which global batch and which mix."""
    micro_batch_size: int
    sequence_parallel: int
    """Devices that share each sequence."""
    accumulation: int
    """Micro-batches that a rank takes in one step."""
    sequence_length: int
    precision: str
    chosen_stage: Stage
    stages: tuple[StagePlan, ...]
    checkpoint_bytes: int
    checkpoints_kept: int
    checkpoints_saved: int
    """Over the whole run, the first (step 0) and the last among them."""

    @property
    def chosen(self) -> StagePlan:
        return self.stages[self.chosen_stage]

    @property
    def data_ranks(self) -> int:
        """Devices, or groups of devices that share sequences, with sequences of their own."""
        return self.hardware.count // self.sequence_parallel

    @property
    def usable_bytes(self) -> int | None:
        """What tensors may fill of a device's memory."""
        return usable_bytes(self.hardware.device)

    @property
    def tokens_per_s(self) -> float:
        """Of all devices together."""
        hardware = self.hardware
        return hardware.count * hardware.device.peak_flops * hardware.mfu / self.flops_per_token.full

    @property
    def hours(self) -> float:
        """Of training steps alone: no preparation, saves or evaluations."""
        return self.total_tokens / self.tokens_per_s / 3600

    @property
    def cost(self) -> float | None:
        """In the currency of the price."""
        price = self.hardware.price_per_gpu_hour
        return None if price is None else self.hours * self.hardware.count * price


def make_plan(config: RunConfig, vocabulary: Vocabulary, hardware: Hardware) -> Plan:
    """Raises Mistake if the global batch does not divide over that many devices."""
    train, length = config.train, config.data.sequence_length
    check_batch(train, hardware.count)
    return Plan(
        run=config.name,
        vocabulary=vocabulary,
        parameters=count_parameters(config.model, vocabulary.size),
        flops_per_token=flops_per_token(config.model, vocabulary.size, length),
        hardware=hardware,
        total_steps=config.total_steps,
        total_tokens=config.batches.first(config.total_steps) * length,
        tokens_per_step=train.global_batch_size * length,
        batch_stages=config.batches.stages,
        stretches=stretches(config),
        micro_batch_size=train.micro_batch_size,
        sequence_parallel=train.sequence_parallel,
        accumulation=train.accumulation(hardware.count),
        sequence_length=length,
        precision=train.precision,
        chosen_stage=train.zero.stage,
        stages=tuple(_stage_plan(config, vocabulary.size, hardware, stage) for stage in STAGES),
        checkpoint_bytes=checkpoint_bytes(config.model, vocabulary.size, train),
        checkpoints_kept=train.checkpoint.keep_last,
        checkpoints_saved=1 + -(-config.total_steps // train.checkpoint.every_steps),
    )


def _stage_plan(config: RunConfig, vocab_size: int, hardware: Hardware, stage: Stage) -> StagePlan:
    def at(micro_batch_size: int) -> Memory:
        train = replace(config.train, micro_batch_size=micro_batch_size)
        gpu = hardware.device.kind == "gpu"
        length = config.data.sequence_length
        return memory(config.model, train, length, vocab_size, hardware.count, stage=stage, gpu=gpu)

    needed, usable = at(config.train.micro_batch_size), usable_bytes(hardware.device)
    if usable is None:
        return StagePlan(stage=stage, memory=needed, fits=None, largest_micro_batch=None)
    largest = largest_that(lambda size: at(size).total <= usable)
    return StagePlan(stage=stage, memory=needed, fits=needed.total <= usable, largest_micro_batch=largest)


def largest_that(holds: Callable[[int], bool]) -> int:
    """The largest number for which something holds that holds up to some number and not beyond; 0 if not even for 1."""
    low, high = 0, 1
    while holds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def record_of(plan: Plan) -> dict[str, Any]:
    """The plan for `--json`: its fields, and what follows from them."""
    record = asdict(plan)
    record["parameters"] |= {"total": plan.parameters.total, "non_embedding": plan.parameters.non_embedding}
    for row, stage in zip(record["stages"], plan.stages, strict=True):
        row["memory"]["total"] = stage.memory.total
    return record | {
        "usable_bytes": plan.usable_bytes,
        "tokens_per_s": plan.tokens_per_s,
        "hours": plan.hours,
        "gpu_hours": plan.hours * plan.hardware.count,
        "cost": plan.cost,
    }
