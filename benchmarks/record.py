"""What all benchmarks share: a peer's environment, timing two sides in turn, and the one record that ends them."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
import venv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_prep.files import write_atomic

CACHE = Path.home() / ".cache" / "headrace-benchmarks"
"""Where benchmarks keep what they make once: texts, environments of peers."""


def alternate(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each side took, round by round: A B A B ..., so that a drift of the machine falls on all alike.

    One uncounted round comes first, to warm caches and imports.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for counted in range(-1, rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if counted >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def median_ratio(theirs: list[float], ours: list[float]) -> float:
    """The median of their time over ours, round by round: above 1, we are faster."""
    return statistics.median(t / o for t, o in zip(theirs, ours, strict=True))


def python_with(folder: Path, *installs: tuple[str, ...]) -> Path:
    """The interpreter of a peer's own environment, made if need be: one `pip install` with each tuple of arguments."""
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.is_file() or ready.read_text() != repr(installs):
        venv.create(folder, with_pip=True)
        for arguments in installs:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], check=True)
        write_atomic(ready, repr(installs).encode())
    return python


def machine() -> dict[str, Any]:
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="end with one JSON record")
    return made


def report(name: str, ratios: dict[str, float], goals: dict[str, float], *, as_json: bool, **figures: Any) -> None:
    """Prints each ratio beside its goal, and with `--json` the record as the last line."""
    for key, ratio in ratios.items():
        goal = f"   goal {goals[key]:g}" if key in goals else ""
        print(f"{key:24} {ratio:8.3f}{goal}")
    if as_json:
        rounded = {key: round(ratio, 4) for key, ratio in ratios.items()}
        print(json.dumps({"benchmark": name, "ratios": rounded, "goals": goals, "machine": machine(), **figures}))
