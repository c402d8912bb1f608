"""What a run does from which step on: its global batch and its mix of sources, where either changes over the run."""

from dataclasses import dataclass
from itertools import accumulate

from data_prep.weights import BLOCK, first_blocks, mixes
from pipeline.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Steps with the same global batch and the same mix."""

    first_step: int
    """As in the journal, the first is 1. A mix may change inside this step, between two of its blocks."""
    first_token: int
    """Tokens trained on before this step."""
    global_batch_size: int
    """In sequences."""
    shares: dict[str, float]
    """Source -> its share of the sequences, in all 1."""


def stretches(config: RunConfig) -> tuple[Stretch, ...]:
    """The run cut wherever its global batch or its mix changes: one where neither does."""
    batches, sources = config.batches, config.data.sources
    sizes = [*(stage.size for stage in batches.stages), batches.size]
    size_from = dict(zip(accumulate((stage.steps for stage in batches.stages), initial=0), sizes, strict=True))
    stages = mixes([source.weight for source in sources])
    blocks = first_blocks(stages, batches.first(config.total_steps))
    mix_from = {batches.step_at(block * BLOCK): mix for block, mix in zip(blocks, stages, strict=True)}
    found = []
    for step in sorted({*size_from, *mix_from}):
        weights = mix_from[max(one for one in mix_from if one <= step)].weights
        shares = {source.name: weight / sum(weights) for source, weight in zip(sources, weights, strict=True)}
        found.append(
            Stretch(
                first_step=step + 1,
                first_token=batches.first(step) * config.data.sequence_length,
                global_batch_size=size_from[max(one for one in size_from if one <= step)],
                shares=shares,
            )
        )
    return tuple(found)
