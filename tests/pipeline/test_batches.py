"""Step <-> positions while batches grow, against a plain list of what each step takes."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batches import Batches, BatchStage
from pipeline.config import RunConfig, load_config
from pipeline.errors import Mistake
from pipeline.train.schedule import learning_rate, progress
from tests.train.small_runs import config_tree, write_config

STAGES = st.lists(st.builds(BatchStage, steps=st.integers(1, 20), size=st.integers(1, 50)), max_size=4).map(tuple)


@given(stages=STAGES, size=st.integers(1, 50))
def test_steps_take_all_positions_one_after_another(stages: tuple[BatchStage, ...], size: int) -> None:
    batches = Batches(size=size, stages=stages)
    sizes = [stage.size for stage in stages for _ in range(stage.steps)] + [size] * 10
    position = 0
    for step, expected in enumerate(sizes):
        positions = batches.positions(step)
        assert positions == range(position, position + expected)
        assert {batches.step_at(one) for one in positions} == {step}
        position += expected


@given(stages=STAGES, size=st.integers(1, 2**20), step=st.integers(0, 2**50))
def test_step_and_position_are_inverse_at_sizes_nobody_could_list(
    stages: tuple[BatchStage, ...], size: int, step: int
) -> None:
    batches = Batches(size=size, stages=stages)
    assert batches.step_at(batches.first(step)) == step
    assert batches.step_at(batches.first(step + 1) - 1) == step


def warmed_up(tmp_path: Path, *stages: dict[str, int], **train: Any) -> RunConfig:
    """Sequences have 64 tokens, and the batch is 8 in the end."""
    tree: dict[str, Any] = config_tree(tmp_path / "ws", steps=10, every_steps=5, ranks=1)
    tree["train"] |= {"micro_batch_size": 1, "batch_warmup": list(stages), **train}
    return load_config(write_config(tmp_path / "run.yaml", tree))


def test_stages_are_rounded_up_to_whole_steps_and_are_part_of_the_runs_tokens(tmp_path: Path) -> None:
    stages = {"global_batch_size": 2, "tokens": 3 * 128 - 1}, {"global_batch_size": 4, "tokens": 257}
    config = warmed_up(tmp_path, *stages, tokens=(6 + 8 + 17) * 64)
    assert config.batches == Batches(size=8, stages=(BatchStage(steps=3, size=2), BatchStage(steps=2, size=4)))
    assert config.total_steps == 3 + 2 + 3
    assert config.batches.first(config.total_steps) == 6 + 8 + 24


def test_without_stages_nothing_changes(tmp_path: Path) -> None:
    none = warmed_up(tmp_path)
    some = warmed_up(tmp_path, {"global_batch_size": 2, "tokens": 128})
    assert none.digest == load_config(tmp_path / "run.yaml", ["train.batch_warmup=[]"]).digest != some.digest
    assert none.total_steps == 10
    assert [none.batches.positions(step) for step in (0, 9)] == [range(8), range(72, 80)]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([(8, 512)], r"train.batch_warmup.0.global_batch_size: 8 must be less than train.global_batch_size, 8"),
        ([(4, 512), (2, 512)], r"batch_warmup.0.global_batch_size: 4 must be less than train.batch_warmup.1.*, 2"),
        ([(2, 0)], r"train.batch_warmup.0.tokens: 0 must be at least 1"),
        ([(0, 512)], r"train.batch_warmup.0.global_batch_size: 0 must be at least 1"),
        ([(4, 5120)], r"train.batch_warmup: its stages take 5120 tokens, and the whole run has only 5120"),
        ([(5, 64)], r"batch_warmup.0.global_batch_size: 5 is not divisible by 1 ranks × micro-batch 2 = 2.*: 4, 6"),
    ],
)
def test_stages_that_cannot_be_are_one_line(tmp_path: Path, stages: list[tuple[int, int]], message: str) -> None:
    given_stages = [{"global_batch_size": size, "tokens": tokens} for size, tokens in stages]
    with pytest.raises(Mistake, match=message) as caught:
        warmed_up(tmp_path, *given_stages, micro_batch_size=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["wsd", "cosine", "linear"])
def test_the_rate_at_some_tokens_is_that_of_a_run_without_stages(tmp_path: Path, kind: str) -> None:
    """Schedules know tokens only: after warm-up, a large step has the rate of the small step that begins with it."""
    schedule = {"kind": kind, "warmup_steps": 0}
    grown = warmed_up(tmp_path, {"global_batch_size": 2, "tokens": 8 * 128}, schedule=schedule)
    small = warmed_up(tmp_path, global_batch_size=2, schedule=schedule)
    assert grown.total_steps == 8 + 8
    for done in range(grown.total_steps):
        same = small.batches.step_at(grown.batches.first(done))
        rates = [
            learning_rate(progress(one, at), 1.0, one.train.schedule) for one, at in ((grown, done), (small, same))
        ]
        assert rates[0] == rates[1]


def test_warmup_of_the_rate_counts_the_small_steps(tmp_path: Path) -> None:
    config = warmed_up(tmp_path, {"global_batch_size": 2, "tokens": 2 * 128}, schedule={"warmup_steps": 4})
    rates = [learning_rate(progress(config, done), 1.0, config.train.schedule) for done in range(5)]
    assert rates == [0.1, 0.2, 0.6, 1.0, 1.0]
