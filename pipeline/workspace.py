"""Where everything lies: the folders of a workspace and of a run, and nothing else.

WORKSPACE/
  corpora/NAME-DIGEST/
  runs/NAME/             config.yaml  state.json  guard.json  metrics.jsonl  checkpoints/step-00000500/  uploads/
                         evals/  job/  doctor/  wandb/
  registry/MODEL/
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.errors import Mistake

STATE_NAME = "state.json"
DELETING_SUFFIX = ".deleting"
"""Ends the hidden name that a checkpoint's folder bears while it is deleted."""


def step_name(step: int) -> str:
    """What a checkpoint's folder is called, in the workspace and at the remote; other names of a step begin with it."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step whose checkpoint has this name; None for any other name."""
    digits = name.removeprefix("step-")
    step = int(digits) if digits.isascii() and digits.isdecimal() else None
    return step if step is not None and step_name(step) == name else None


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def state(self) -> Path:
        """What the run has pinned (`pipeline.runs.RunState`)."""
        return self.path / STATE_NAME

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def uploads(self) -> Path:
        """Notes of what this workspace has stored at the remote (`pipeline.train.upload.Upload`)."""
        return self.path / "uploads"

    def upload(self, step: int) -> Path:
        return self.uploads / f"{step_name(step)}.json"

    @property
    def evals(self) -> Path:
        return self.path / "evals"

    @property
    def guard(self) -> Path:
        """What the run leaves out of its data, and its rollbacks (`pipeline.train.guard.GuardState`)."""
        return self.path / "guard.json"

    @property
    def stop(self) -> Path:
        """A file of this name, made by hand or by `headrace cancel`, tells the run to save and stop."""
        return self.path / "stop"

    @property
    def train_lock(self) -> Path:
        """Held by rank 0 for as long as it trains."""
        return self.path / "train.lock"

    @property
    def job(self) -> Path:
        """The launcher's records and logs of the training job."""
        return self.path / "job"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / step_name(step)

    def report(self, step: int, suite: str) -> Path:
        return self.evals / f"{step_name(step)}.{suite}.json"


@dataclass(frozen=True, kw_only=True)
class Workspace:
    path: Path

    @property
    def corpora(self) -> Path:
        return self.path / "corpora"

    def run(self, name: str) -> RunFolder:
        return RunFolder(path=self.path / "runs" / name)


def workspace_of(config: RunConfig) -> Workspace:
    """The config's workspace, which may not be there. A relative one lies in the folder that one is in."""
    return Workspace(path=Path(config.workspace).absolute())


def open_workspace(config: RunConfig) -> Workspace:
    """Makes the workspace's folder. Raises Mistake if it cannot be written to."""
    workspace = workspace_of(config)
    path = workspace.path
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Mistake(
            f"workspace: {path} cannot be made: {error.strerror}; choose a folder you may write to"
        ) from error
    if not os.access(path, os.W_OK | os.X_OK) or _read_only(path):
        raise Mistake(f"workspace: {path} is not writable; choose a folder you may write to")
    return workspace


def _read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
