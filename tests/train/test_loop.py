"""What one step leaves behind: its line in the journal, and what the loop goes on from."""

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.signals import StopNotice
from cluster.world import World
from pipeline.config import load_config
from pipeline.train import loop
from pipeline.train.loop import Taken, take_step
from pipeline.train.training import Training
from pipeline.workspace import RunFolder
from tests.train.small_runs import ALONE, config_tree, small_corpus, write_config


class NotAllHereError(Exception):
    """A rank has brought its figures, and others have not yet."""


@dataclass(frozen=True, kw_only=True)
class Rank:
    """What one rank finds in a step."""

    losses: tuple[float, float] = (2.0, 0.0)
    forward_s: float = 1000.0
    told: bool = False
    saved: bool = False
    """Its part of a save in flight has come to an end."""


def taken(
    folder: Path, ranks: Sequence[Rank], monkeypatch: pytest.MonkeyPatch, *overrides: str
) -> tuple[Taken, dict[str, Any]]:
    """Step 3 of a run as rank 0 takes it, and its line. The ranks take it one after the other, and rank 0 once more with
    the mean of what all have brought."""
    tree = config_tree(folder / "ws", steps=6, every_steps=2, ranks=len(ranks))
    config = load_config(write_config(folder / "run.yaml", tree), overrides)
    manifest = small_corpus(folder / "corpus")
    digest: Future[str] = Future()
    digest.set_result("d1ge57")
    brought: list[Tensor] = []
    lines: list[dict[str, Any]] = []

    def averaged(values: Tensor, _: World) -> list[float]:
        brought.append(values.clone())
        if len(brought) <= len(ranks):
            raise NotAllHereError
        means: list[float] = torch.stack(brought[: len(ranks)]).mean(0).tolist()
        return means

    def take(at: int, rank: Rank) -> Taken:
        losses = torch.tensor(rank.losses, dtype=torch.float64)
        monkeypatch.setattr(loop, "train_step", lambda *_: (losses, 1.5, rank.forward_s))
        notice = StopNotice({})
        monkeypatch.setattr(notice, "requested", lambda: rank.told)
        training = Training(
            config=config,
            run=RunFolder(path=folder),
            corpus=folder / "corpus",
            manifest=manifest,
            world=replace(ALONE, rank=at, size=len(ranks)),
            notice=notice,
            tell=lambda kind, **figures: lines.append({"kind": kind, **figures}),
        )
        batch = np.zeros(0, dtype=np.uint16)
        return take_step(training, None, lambda _: batch, lambda _: digest, 2, lambda: rank.saved)

    monkeypatch.setattr(loop, "set_learning_rate", lambda *_: None)
    monkeypatch.setattr(loop, "averaged", averaged)
    for at, rank in enumerate(ranks):
        with suppress(NotAllHereError):
            take(at, rank)
    found = take(0, ranks[0])
    return found, lines[-1]


def test_a_steps_line_has_the_figures_of_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = [
        Rank(losses=(2.0, 0.25), forward_s=1000),
        Rank(losses=(4.0, 0.5), forward_s=3000),
        Rank(losses=(3.0, 0.75), forward_s=1500),
    ]
    step, line = taken(tmp_path, ranks, monkeypatch, "model.z_loss=1e-4", "train.global_batch_size=12")
    assert (step.step, step.figures.loss, step.figures.grad_norm, step.stop) == (3, 3.0, 1.5, False)
    figures = ("kind", "step", "tokens", "loss", "z_loss", "lr", "grad_norm", "batch_digest")
    assert [line[key] for key in figures] == ["step", 3, 3 * 12 * 64, 3.0, 0.5, 3e-3, 1.5, "d1ge57"]
    assert (line["slowest_rank"], line["slowest_over_median"]) == (1, 2.0)
    assert line["tokens_per_s"] == pytest.approx(12 * 64 / line["step_s"])


def test_one_rank_has_nobody_to_wait_for_and_no_z_loss_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, line = taken(tmp_path, [Rank()], monkeypatch)
    assert not line.keys() & {"z_loss", "slowest_rank", "slowest_over_median", "rank_s"}
    assert not step.stop


@pytest.mark.parametrize("told", [0, 1])
def test_a_notice_to_any_rank_stops_all(told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, _ = taken(tmp_path, [Rank(told=at == told) for at in range(2)], monkeypatch)
    assert step.stop


@pytest.mark.parametrize("ended", [(), (0,), (1, 2), (0, 1, 2)])
def test_a_save_is_over_once_every_ranks_part_of_it_is(
    ended: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that waited earlier, and met a failure, would leave the others in the next step."""
    ranks = [Rank(saved=at in ended) for at in range(3)]
    step, _ = taken(tmp_path, ranks, monkeypatch, "train.global_batch_size=12")
    assert step.save_is_over == (len(ended) == 3)
