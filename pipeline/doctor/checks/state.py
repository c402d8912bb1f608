"""Verdicts on the training state: random numbers, gradients, and the way through a checkpoint and back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config import TrainConfig
from pipeline.doctor.checks.verdict import Check
from pipeline.doctor.checks.words import alike, bytes_text, count_text, finite, or_inf, ranks_text


def check_streams(before: Sequence[Mapping[str, str]], after: Sequence[Mapping[str, str]]) -> Check:
    """Whether each rank draws other random numbers, and gets its own back from a checkpoint.

    before, after: digests of each rank's generators by name, as saved and as restored. Megatron-LM once restored one
    stream on 252 of 256 ranks.
    """
    shared = [
        (name, ranks)
        for kind in (before, after)
        for name in kind[0]
        for ranks in alike([one[name] for one in kind])
        if len(ranks) > 1
    ]
    strayed = [rank for rank, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    problems = []
    if shared:
        name, ranks = max(shared, key=lambda item: len(item[1]))
        problems.append(f"{ranks_text(ranks)} share one {name} stream")
    if strayed:
        problems.append(f"{ranks_text(strayed)} did not get theirs back from a checkpoint")
    return Check(
        name="random streams",
        result="fail" if problems else "ok",
        figure="; ".join(problems) or f"{count_text(len(before), 'stream')} ({', '.join(before[0])}), each restored",
        bound="one a rank, the same after a load",
        advice="seed each rank by its rank before anything draws" * bool(shared),
        values={"shared": sorted({rank for _, ranks in shared for rank in ranks}), "strayed": strayed},
    )


FP32_UNIT, BF16_UNIT, INT8_UNIT, INT4_UNIT = 2.0**-24, 2.0**-8, 2.0**-7, 2.0**-3
"""Unit roundoffs: half the distance from 1 to the next number."""
DEVIATIONS = 4.0


def gradient_bound(train: TrainConfig, world_size: int, sequence_length: int) -> float:
    """How far two correct gradients of one tensor may be apart: norm of the difference, as a share of the mean norm of
    a micro-batch's gradient.

    A rounded sum of n numbers is off by some √n unit roundoffs: the errors of single additions have mean 0 (Higham and
    Mary, 2019, theorem 3.1; the worst case n is never seen). In fp32 n is the positions of the global batch, each of
    which adds its part to each weight's gradient. With bf16 each of the A·W micro-batches' gradients is rounded as it
    leaves the model or travels. ZeRO++ rounds weights to int8 and gradients to int4. Four times that is allowed.
    """
    micro_batches = train.global_batch_size // train.micro_batch_size
    bound = math.sqrt(train.global_batch_size * sequence_length) * FP32_UNIT
    if train.precision == "bf16":
        bound += math.sqrt(micro_batches + 1) * BF16_UNIT
    if train.zero.zero_quantized_weights:
        bound += INT8_UNIT
    if train.zero.zero_quantized_gradients:
        bound += math.sqrt(world_size) * INT4_UNIT
    return DEVIATIONS * bound


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a rank's part of the gradients that DeepSpeed arrived at differs from plain data parallel's."""

    worst: float
    """Norm of the difference, by tensor the largest, as a share of the mean norm of a micro-batch's gradient."""
    tensor: str
    norm: float | None
    """The same of the global norm that the engine reports; None with Muon, where it is that of the updates."""
    excess: float | None
    """What the gradients of all ranks hold too much of this rank's own share: 0 none, -1 it is missing. None where
    ranks share sequences: in attention their shares mix."""
    weights: str
    """Digest of the weights after the step; empty where they are sharded."""


def check_gradients(ranks: Sequence[Difference], bound: float) -> Check:
    """Whether what enters the optimizer is the gradient of the global batch: clipped, reduced and sharded or not."""
    worst = max(range(len(ranks)), key=lambda rank: or_inf(ranks[rank].worst))
    wrong = [rank for rank, one in enumerate(ranks) if not one.worst <= bound]
    # A norm is off by no more than the norm of the difference, so the same bound holds for it.
    norms = [or_inf(one.norm) for one in ranks if one.norm is not None]
    wrong_norm = any(one > bound for one in norms)
    groups = sorted(alike([one.weights for one in ranks]), key=len, reverse=True)
    problems, advice = [], ""
    if wrong:
        where = ranks[worst]
        problems.append(f"off by {where.worst:.2g} at worst, in {where.tensor}")
        if len(wrong) < len(ranks):
            advice = f"only what {ranks_text(wrong)} holds is wrong; "
        elif all(one.excess is not None for one in ranks):
            excesses = [one.excess or 0.0 for one in ranks]
            named = max(range(len(ranks)), key=lambda rank: abs(excesses[rank]))
            advice = f"it looks like rank {named}'s share, counted {1 + excesses[named]:.2f} times; "
        else:
            advice = "see whether it is right with train.sequence_parallel=1; "
    if wrong_norm:
        problems.append(f"the global norm by {max(norms):.2g}")
    if len(groups) > 1:
        problems.append(f"{ranks_text(sorted(rank for group in groups[1:] for rank in group))} left with other weights")
    if problems:
        advice += "do not train with this train.zero: try another stage, and report it"
    return Check(
        name="gradients",
        result="fail" if problems else "ok",
        figure="; ".join(problems) or f"as plain data parallel's within {ranks[worst].worst:.2g}",
        bound=f"≤ {bound:.2g}",
        advice=advice,
        values={"worst": finite(ranks[worst].worst), "bound": bound, "ranks": wrong},
    )


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """Digests of all that a rank holds of the training state."""

    saved: str
    loaded: str
    """In a new engine that read the checkpoint."""
    went_on: str
    """One step after the save, in the engine that saved."""
    resumed: str
    """The same step in the new one."""


def check_round_trip(ranks: Sequence[RoundTrip], size_bytes: int) -> Check:
    """Whether a resume is bitwise: the state comes back as it was, and goes on as it would have."""
    lost = [rank for rank, one in enumerate(ranks) if one.saved != one.loaded]
    apart = [rank for rank, one in enumerate(ranks) if one.went_on != one.resumed]
    problems = [f"the state of {ranks_text(lost)} came back changed"] * bool(lost)
    problems += [f"the next step of {ranks_text(apart)} came out differently"] * bool(apart)
    return Check(
        name="save and load",
        result="fail" if problems else "ok",
        figure="; ".join(problems) or f"{bytes_text(size_bytes)} came back, and the next step is the same",
        bound="bitwise",
        advice="do not rely on resuming with this train.zero: try another stage, and report it" if problems else "",
        values={"lost": lost, "apart": apart},
    )
