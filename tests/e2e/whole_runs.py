"""Whole runs through the real command line: text, config and a way to call `headrace`."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.train.small_runs import sentences, write_config
from tests.warm import ROOT

STEPS, EVERY = 8, 4


def text(folder: Path) -> None:
    """Two sources of random words as JSON lines, with a few bad and duplicate lines among them."""
    folder.mkdir()
    for name, count in (("prose", 300), ("code", 200)):
        lines = [json.dumps({"id": key, "text": words}) for key, words in sentences(name, count)]
        lines += ["this is not JSON", json.dumps({"id": "none"}), lines[0].replace(f"{name}0", f"{name}-again")]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def config(folder: Path, **sections: Any) -> Path:
    tree = {
        "name": "whole",
        "workspace": str(folder / "workspace"),
        "data": {
            "sources": [
                {"name": "prose", "path": str(folder / "text/prose.jsonl"), "weight": 0.7},
                {"name": "code", "path": str(folder / "text/code.jsonl"), "weight": 0.3},
            ],
            "tokenizer": {"train": {"vocab_size": 300}},
            "sequence_length": 64,
            "heldout": {"fraction": 0.05},
        },
        "model": {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2},
        "train": {
            "tokens": STEPS * 8 * 64,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "optimizer": {"lr": 3e-3},
            "schedule": {"warmup_steps": 2},
            "precision": "fp32",
            "checkpoint": {"every_steps": EVERY, "keep_last": 3},
        },
        "promote": {"model": "small"},
        "cluster": {"processes_per_node": 2},
    }
    return write_config(folder / "run.yaml", {**tree, **sections})


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def start(*words: str | Path, script: Sequence[str | Path] = ("-m", "pipeline.cli")) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, script), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def headrace(*words: str | Path, code: int = 0, timeout_s: float = 500, **how: Any) -> dict[str, Any]:
    """Runs a verb with `--json` and gives its record."""
    process = start(*words, "--json", **how)
    output, errors = process.communicate(timeout=timeout_s)
    assert process.returncode == code, f"exit code {process.returncode}\n{output}\n{errors}"
    record: dict[str, Any] = json.loads(output.splitlines()[-1]) if output.strip() else {}
    return record
