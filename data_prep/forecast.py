"""What a build will come to, from a few of its units done for real: the pure part of a dry run.

    sizes of the inputs, by how they are read --\
    figures of the sampled units ---------------> Forecast -> a table

Each kind of input is scaled by its own ratio of output to input bytes (the ratio estimate of Cochran, Sampling
Techniques, 1977, chapter 6), for which units must be chosen by hash and not by place. The spread comes from how much
the samples of a kind differ among themselves, so it knows nothing of what was in no sample.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from data_prep.manifest import stride_bytes
from data_prep.report.numbers import aligned, number, rounded, size
from data_prep.shards import sequences_per_shard

SHARDS = "shards"
"""The stage that has a task a shard; every other has one a unit."""

Kind = tuple[str, str, str]
"""(source, kind, compression)"""


@dataclass(frozen=True, kw_only=True)
class InputGroup:
    """The input files of a source that are read in the same way."""

    source: str
    kind: str
    compression: str
    size_bytes: int
    num_units: int
    largest_unit_bytes: int
    """A compressed file is one unit however large: nothing ends before the task that reads it."""


@dataclass(frozen=True, kw_only=True)
class SampledUnit:
    """What came of a unit that was done for real."""

    source: str
    kind: str
    compression: str
    input_bytes: int
    documents_read: int
    documents_kept: int
    text_bytes: int
    """Of the documents kept."""
    num_tokens: int
    work_bytes: int
    """Written to the work folder."""
    stage_s: dict[str, float]
    """Stage -> seconds of one core."""
    peak_bytes: int
    """Most memory of the process that did it."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    value: float
    error: float | None
    """One standard error; None if no kind of input was sampled twice."""

    def scaled(self, factor: float) -> "Estimate":
        return Estimate(value=self.value * factor, error=None if self.error is None else self.error * factor)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    units: int
    sampled_units: int
    input_bytes: int
    workers: int
    stage_tasks: dict[str, int]
    stage_s: dict[str, float]
    """Stage -> seconds on all workers."""
    documents_read: Estimate
    documents_kept: Estimate
    text_bytes: Estimate
    num_tokens: Estimate
    output_bytes: Estimate
    """Of the shards."""
    work_bytes: Estimate
    seconds: Estimate
    peak_bytes: int
    """Of all workers together."""
    unsampled: tuple[Kind, ...]
    """Kinds of input without a sample of their own: scaled by the others'."""


def forecast(
    groups: Sequence[InputGroup],
    samples: Sequence[SampledUnit],
    *,
    workers: int,
    sequence_length: int,
    token_dtype: str,
    shard_bytes: int,
    fixed_s: float = 0.0,
    fixed_bytes: int = 0,
) -> Forecast:
    """The forecast. `fixed_s` and `fixed_bytes` are what the build takes whatever its size: imports, training the
    tokenizer, the driver's memory. There must be at least one sample."""
    assert samples, "nothing was sampled"
    units = sum(group.num_units for group in groups)
    num_tokens = _total(groups, samples, lambda one: one.num_tokens)
    stride = stride_bytes(sequence_length, token_dtype)
    stages = {stage: None for one in samples for stage in one.stage_s}
    shards = _num_shards(
        groups, samples, sequence_length, sequences_per_shard(shard_bytes, sequence_length, token_dtype)
    )
    stage_tasks = {stage: shards if stage == SHARDS else units for stage in stages}
    stage_s = {stage: _stage_s(groups, samples, stage, min(workers, tasks)) for stage, tasks in stage_tasks.items()}
    work_s = _total(groups, samples, lambda one: sum(one.stage_s.values()))
    wall_s = sum(stage_s.values())
    return Forecast(
        units=units,
        sampled_units=len(samples),
        input_bytes=sum(group.size_bytes for group in groups),
        workers=workers,
        stage_tasks=stage_tasks,
        stage_s=stage_s,
        documents_read=_total(groups, samples, lambda one: one.documents_read),
        documents_kept=_total(groups, samples, lambda one: one.documents_kept),
        text_bytes=_total(groups, samples, lambda one: one.text_bytes),
        num_tokens=num_tokens,
        output_bytes=num_tokens.scaled(stride / sequence_length),
        work_bytes=_total(groups, samples, lambda one: one.work_bytes),
        seconds=Estimate(
            value=fixed_s + wall_s,
            error=None if work_s.error is None else wall_s * work_s.error / (work_s.value or 1.0),
        ),
        peak_bytes=fixed_bytes + min(workers, units) * max(one.peak_bytes for one in samples),
        unsampled=tuple(_kind(group) for group in groups if not any(_kind(one) == _kind(group) for one in samples)),
    )


def _kind(one: InputGroup | SampledUnit) -> Kind:
    return one.source, one.kind, one.compression


def _like(group: InputGroup, samples: Sequence[SampledUnit]) -> list[SampledUnit]:
    """The samples that a group is scaled by: its own, else its source's, else all."""
    own = [one for one in samples if _kind(one) == _kind(group)]
    return own or [one for one in samples if one.source == group.source] or list(samples)


def _ratio(samples: Iterable[SampledUnit], figure: Callable[[SampledUnit], float]) -> float:
    """Of a figure to the bytes it came from."""
    samples = list(samples)
    return sum(map(figure, samples)) / (sum(one.input_bytes for one in samples) or 1)


def _total(
    groups: Sequence[InputGroup], samples: Sequence[SampledUnit], figure: Callable[[SampledUnit], float]
) -> Estimate:
    """A figure of all inputs: each group's bytes times its samples' ratio."""
    value = sum(group.size_bytes * _ratio(_like(group, samples), figure) for group in groups)
    variance_of_unit = _variance(samples, figure)
    if variance_of_unit is None:
        return Estimate(value=value, error=None)
    variance = 0.0
    for group in groups:
        like = _like(group, samples)
        sampled_bytes = sum(one.input_bytes for one in like)
        own = _kind(like[0]) == _kind(group)
        # What was done for real is known; what was not is as uncertain as so many units.
        rest = max(0.0, 1 - sampled_bytes / group.size_bytes) if own and group.size_bytes else 1.0
        group_units = group.size_bytes / (sampled_bytes or 1) * len(like)
        variance += group_units**2 * rest * variance_of_unit / len(like)
    return Estimate(value=value, error=math.sqrt(variance))


def _variance(samples: Sequence[SampledUnit], figure: Callable[[SampledUnit], float]) -> float | None:
    """Of a unit's figure around its kind's ratio, over all kinds; None if no kind has two samples."""
    squares, freedom = 0.0, 0
    for kind in {_kind(one) for one in samples}:
        mine = [one for one in samples if _kind(one) == kind]
        ratio = _ratio(mine, figure)
        squares += sum((figure(one) - ratio * one.input_bytes) ** 2 for one in mine)
        freedom += len(mine) - 1
    return squares / freedom if freedom else None


def _stage_s(groups: Sequence[InputGroup], samples: Sequence[SampledUnit], stage: str, at_once: int) -> float:
    """Seconds of a stage: its work shared by so many workers, but not less than the task of its largest unit."""

    def of_stage(one: SampledUnit) -> float:
        return one.stage_s.get(stage, 0.0)

    shared = _total(groups, samples, of_stage).value / max(1, at_once)
    if stage == SHARDS:
        return shared
    return max(shared, *(group.largest_unit_bytes * _ratio(_like(group, samples), of_stage) for group in groups))


def _num_shards(
    groups: Sequence[InputGroup], samples: Sequence[SampledUnit], sequence_length: int, per_shard: int
) -> int:
    """Each source fills shards of its own."""
    total = 0
    for source in {group.source for group in groups}:
        mine = [group for group in groups if group.source == source]
        num_tokens = sum(group.size_bytes * _ratio(_like(group, samples), lambda one: one.num_tokens) for group in mine)
        total += math.ceil(math.ceil(num_tokens / sequence_length) / per_shard)
    return total


def forecast_text(forecast: Forecast) -> str:
    """The forecast as lines for a terminal."""
    facts = [
        ("input", size(forecast.input_bytes), f"{number(forecast.units)} units, {forecast.sampled_units} sampled"),
        ("documents read", *_of(forecast.documents_read, rounded)),
        ("documents kept", *_of(forecast.documents_kept, rounded)),
        ("text kept", *_of(forecast.text_bytes, size)),
        ("tokens", *_of(forecast.num_tokens, rounded)),
        ("shards", *_of(forecast.output_bytes, size)),
        ("work folder", *_of(forecast.work_bytes, size)),
        ("memory", size(forecast.peak_bytes), f"{forecast.workers} workers at most together"),
        ("time", *_of(forecast.seconds, _duration)),
    ]
    stages = [
        ("stage", "tasks", "time"),
        *((stage, number(tasks), _duration(forecast.stage_s[stage])) for stage, tasks in forecast.stage_tasks.items()),
    ]
    notes = [
        f"No unit of {source} ({kind}{compression}) was sampled: scaled by others."
        for source, kind, compression in forecast.unsampled
    ]
    if forecast.seconds.error is None:
        notes.append("No spread: no kind of input was sampled twice.")
    return "\n".join([_facts(facts), "", aligned(stages), *([""] if notes else []), *notes])


def _of(estimate: Estimate, form: Callable[[float], str]) -> tuple[str, str]:
    """The value, and the range of about 95 % as far as the samples can tell."""
    if estimate.error is None:
        return form(estimate.value), ""
    low = form(max(0.0, estimate.value - 2 * estimate.error))
    high = form(estimate.value + 2 * estimate.error)
    return form(estimate.value), f"{low} to {high}" if low != high else ""


def _facts(rows: Sequence[tuple[str, str, str]]) -> str:
    names, values = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{name:<{names}}  {value:>{values}}  {remark}".rstrip() for name, value, remark in rows)


def _duration(seconds: float) -> str:
    """`12 s`, `3 min`, `2.4 h`, `5.1 days`: no more digits than a forecast has."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{1 if unit == 3600 else 0}f} {name}"
    return f"{seconds / 86_400:.1f} days"
