"""The learning rate of a step: pure functions of tokens, so that a schedule knows nothing of batches or ranks."""

import math
from dataclasses import dataclass

from pipeline.config import RunConfig, ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where in the run a step stands; all in tokens."""

    seen: int
    """Before the step."""
    step: int
    """Of the step itself."""
    warmup: int
    total: int

    @property
    def since_warmup(self) -> float:
        """The share of what follows warm-up that has been seen, from 0 to 1."""
        return (self.seen - self.warmup) / max(1, self.total - self.warmup)


def warmup(at: Progress) -> float:
    """Linear, from a step's share of warm-up at the first step to 1: no step is wasted at a rate of 0."""
    return min(1.0, (at.seen + at.step) / at.warmup) if at.warmup else 1.0


def wsd(at: Progress, schedule: ScheduleConfig) -> float:
    """Warm-up-stable-decay (Hu et al., "MiniCPM", 2024), with a linear decay."""
    decay = schedule.decay_fraction * at.total
    left = (at.total - at.seen) / decay if decay else 1.0
    floor = schedule.final_lr_fraction
    return min(warmup(at), floor + (1 - floor) * min(1.0, left))


def cosine(at: Progress, schedule: ScheduleConfig) -> float:
    """Half a cosine from the end of warm-up to the end of the run (Loshchilov and Hutter, 2016)."""
    if at.seen < at.warmup:
        return warmup(at)
    floor = schedule.final_lr_fraction
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * at.since_warmup))


def linear(at: Progress, schedule: ScheduleConfig) -> float:
    """A straight line from the end of warm-up to the end of the run (Bergsma et al., "Straight to Zero", 2025)."""
    if at.seen < at.warmup:
        return warmup(at)
    floor = schedule.final_lr_fraction
    return floor + (1 - floor) * (1 - at.since_warmup)


SCHEDULES = {"wsd": wsd, "cosine": cosine, "linear": linear}


def progress(config: RunConfig, done: int) -> Progress:
    """Where in its run the step stands that comes after `done` steps."""
    seen, end, warmup, total = (
        config.batches.first(step) * config.data.sequence_length
        for step in (done, done + 1, config.train.schedule.warmup_steps, config.total_steps)
    )
    return Progress(seen=seen, step=end - seen, warmup=warmup, total=total)


def learning_rate(at: Progress, peak: float, schedule: ScheduleConfig) -> float:
    """The rate of a step."""
    return peak * SCHEDULES[schedule.kind](at, schedule)
