"""A workspace with made-up checkpoints: a folder with one file, whose sha256 is the checkpoint's digest."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.evaluate.report import EvalReport, sealed
from pipeline.promote.chain import Entry
from pipeline.promote.config import PromoteConfig
from pipeline.promote.registry import promote

from .reports import documents, scored

CONFIG = PromoteConfig(model="tiny")


def report_at(step: int, worse_by: float = 0.0, **changes: object) -> EvalReport:
    return scored(documents(), worse_by=worse_by, seed=f"step {step}", step=step, **changes)


def add_checkpoint(workspace: Path, report: EvalReport) -> tuple[EvalReport, Path]:
    """Writes the checkpoint that a report is about, and binds the report to it."""
    folder = workspace / "runs/test/checkpoints" / f"step-{report.step}"
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights"
    if not weights.exists():
        weights.write_text(f"weights of step {report.step}")
    return sealed(replace(report, checkpoint_digest=check_checkpoint(folder))), folder


def check_checkpoint(folder: Path) -> str:
    return hashlib.sha256((folder / "weights").read_bytes()).hexdigest()


def promote_step(
    workspace: Path, step: int, worse_by: float = 0.0, config: PromoteConfig = CONFIG, **options: Any
) -> Entry:
    report, checkpoint = add_checkpoint(workspace, report_at(step, worse_by))
    return promote(workspace, config, report, checkpoint, check_checkpoint=check_checkpoint, **options)
