"""The learning rate at a step: pure functions of (step, total steps)."""

import math

from pipeline.config import ScheduleConfig


def warmup(step: int, warmup_steps: int) -> float:
    """Linear from 1/warmup_steps at step 0 to 1: no step is wasted at a rate of 0."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def wsd(step: int, total_steps: int, schedule: ScheduleConfig) -> float:
    """Warm-up-stable-decay (Hu et al., "MiniCPM", 2024), with a linear decay."""
    decay_steps = round(schedule.decay_fraction * total_steps)
    left = (total_steps - step) / decay_steps if decay_steps else 1.0
    floor = schedule.final_lr_fraction
    return min(warmup(step, schedule.warmup_steps), floor + (1 - floor) * min(1.0, left))


def cosine(step: int, total_steps: int, schedule: ScheduleConfig) -> float:
    """Half a cosine from the end of warm-up to the end of the run (Loshchilov and Hutter, 2016)."""
    if step < schedule.warmup_steps:
        return warmup(step, schedule.warmup_steps)
    progress = (step - schedule.warmup_steps) / max(1, total_steps - schedule.warmup_steps)
    floor = schedule.final_lr_fraction
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


SCHEDULES = {"wsd": wsd, "cosine": cosine}


def learning_rate(step: int, total_steps: int, peak: float, schedule: ScheduleConfig) -> float:
    """The rate that step `step` (from 0) of `total_steps` is taken with."""
    return peak * SCHEDULES[schedule.kind](step, total_steps, schedule)
