"""What the parts of a run's training share: one rank's view of it, from the start to the end."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.signals import StopNotice
from cluster.world import World
from data_prep.manifest import Manifest
from pipeline.config import RunConfig
from pipeline.workspace import RunFolder

Tell = Callable[..., None]
"""`tell(kind, **figures)`: adds a line to the run's journal, on rank 0; elsewhere it does nothing."""


@dataclass(frozen=True, kw_only=True)
class Training:
    config: RunConfig
    run: RunFolder
    corpus: Path
    """The corpus's folder."""
    manifest: Manifest
    world: World
    notice: StopNotice
    """Who may tell this rank to stop."""
    tell: Tell
