"""Joins what happens to what people look at: the console and wandb, for each verb."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.config import RunConfig
from pipeline.workspace import Workspace

View = Callable[[str, dict[str, Any]], None]


@contextmanager
def corpus_progress() -> Iterator[Callable[[Any], None]]:
    yield lambda progress: None


@contextmanager
def evaluation_progress() -> Iterator[Callable[[int, int], None]]:
    yield lambda done, total: None


@contextmanager
def run_progress(config: RunConfig, workspace: Workspace) -> Iterator[Callable[[], None]]:
    yield lambda: None


def training_views(config: RunConfig, workspace: Workspace) -> Sequence[View]:
    return []
