"""What all benchmarks share: timing two sides in turn, and the one record that a benchmark ends with."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


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
