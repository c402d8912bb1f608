"""Which positions of the order a step takes, and which step takes a position; the global batch may grow in stages.

    steps      0 ......... 99 | 100 ....... 149 | 150 ...
    size       256            | 512             | 1,024
    positions  0 ..... 25,599 | 25,600 . 51,199 | 51,200 ...

Steps are counted from 0 here. Sums over the few stages before say where a stage begins, so both ways are arithmetic:
nothing is counted along the run, and a resume at any step begins where the step before it ended.
"""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate


@dataclass(frozen=True, kw_only=True)
class BatchStage:
    """Steps with batches of one size."""

    steps: int
    size: int
    """Sequences in each."""


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The global batches of a run."""

    size: int
    """Sequences in each step from the end of the stages on."""
    stages: tuple[BatchStage, ...] = ()

    @cached_property
    def _first_steps(self) -> list[int]:
        return list(accumulate((stage.steps for stage in self.stages), initial=0))

    @cached_property
    def _first_positions(self) -> list[int]:
        return list(accumulate((stage.steps * stage.size for stage in self.stages), initial=0))

    @cached_property
    def _sizes(self) -> list[int]:
        return [*(stage.size for stage in self.stages), self.size]

    def first(self, step: int) -> int:
        """The first position of a step: how many sequences the steps before it took."""
        at = bisect_right(self._first_steps, step) - 1
        return self._first_positions[at] + (step - self._first_steps[at]) * self._sizes[at]

    def positions(self, step: int) -> range:
        """All positions of a step."""
        return range(self.first(step), self.first(step + 1))

    def step_at(self, position: int) -> int:
        """The step that takes a position."""
        at = bisect_right(self._first_positions, position) - 1
        return self._first_steps[at] + (position - self._first_positions[at]) // self._sizes[at]
