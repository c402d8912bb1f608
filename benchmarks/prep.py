"""How fast raw text becomes a corpus: `headrace prep` against datatrove, whole process against whole process.

    python -m benchmarks.prep [--megabytes 1000] [--full-megabytes 200] [--rounds 1] [--only tokenize|full] [--json]
    python -m benchmarks.prep --profile

`tokenize_vs_datatrove`: JSON lines to shuffled tokens, no rules, no deduplication. `full_vs_datatrove`: with the rules
of FineWeb (Gopher, C4 and its own), exact and near duplicates. Each is their time over ours for the same input files
and the same tokenizer.json, on the same two cores, everything counted: the interpreter's start and its imports, fsync.
With `--ray` ours starts a Ray for itself instead of processes, which is counted too. What each side runs:
datatrove_side.py, and `run_config` here. Ours does more: it shuffles over all files, packs, writes hashed shards with
their documents beside them, and checks its tokenizer.

    packages of text ──> part-*.jsonl ───────┬─> headrace prep      ──┬─> seconds, documents, tokens
          └─> tokenizer.json ────────────────┴─> datatrove_side.py  ──┘

On the tokenizing side both must read as many documents and write as many tokens, to the token, or the run fails. The
full side prints both funnels beside each other: words are cut otherwise (docs/data.md), so they are near, not equal.

`--profile` builds the same two corpora in this process, without Ray, and prints where its CPU time goes: what waits for
the disk, and what else runs on the machine, is not in it.

The first run makes in the cache folder what it needs: text from Debian's packages, and an environment with datatrove
from PyPI. Later runs, and both sides in all runs, use no network.
"""

import argparse
import contextlib
import cProfile
import json
import os
import pstats
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import yaml

from benchmarks.record import CACHE, median_ratio, parser, python_with, report
from benchmarks.text_of_packages import END_OF_TEXT, everything, provenance, text_of_packages
from data_prep.files import write_atomic

DATATROVE = ("datatrove[processing,io]==0.10.1", "spacy==3.8.18")
"""spaCy cuts the words for its filters and its MinHash. Neither brings PyTorch."""
GOALS: dict[str, float] = {"tokenize_vs_datatrove": 30, "full_vs_datatrove": 15}
SHARES = {
    "tokenize": {"prose": 0.06, "reference": 0.1, "code": 0.84},
    "full": {"prose": 0.35, "reference": 0.5, "code": 0.15},
}
"""What the text is made of. Rules made for prose drop much of reference pages and nearly all code."""
WARM_MEGABYTES = 2
VOCAB_SIZE = 32_768
CORES = 2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one side did with its input."""

    seconds: float
    documents: int
    kept: int
    tokens: int
    """End of text included, one a kept document; without padding."""
    dropped: dict[str, int]


def run_config(side: str, inputs: Path, workspace: Path, tokenizer: Path) -> dict[str, Any]:
    """The run whose corpus is made. Only `data` matters to `prep`."""
    full = side == "full"
    return {
        "name": side,
        "workspace": str(workspace),
        "data": {
            "sources": [
                {"name": "text", "path": f"{inputs}/*.jsonl", "rules": "fineweb" if full else "none"},
            ],
            "dedup": {"exact": True, "minhash": {"threshold": 0.72}} if full else {"exact": False},
            "tokenizer": {"path": str(tokenizer)},
            "sequence_length": 2048,
            "heldout": {"fraction": 0.0},
        },
        "model": {"layers": 1, "width": 64, "heads": 1},
        "train": {"tokens": 2048, "global_batch_size": 1, "micro_batch_size": 1, "optimizer": {"lr": 0.001}},
    }


def ours(side: str, inputs: Path, work: Path, tokenizer: Path) -> Outcome:
    path = work / "run.yaml"
    path.write_text(yaml.safe_dump(run_config(side, inputs, work / "workspace", tokenizer)))
    seconds, record = timed([str(Path(sys.executable).with_name("headrace")), "prep", str(path), "--json"], work)
    [manifest] = (work / "workspace" / "corpora").glob("*/manifest.json")
    assert str(manifest.parent) == record["corpus"], record
    source = json.loads(manifest.read_bytes())["sources"][0]
    return Outcome(
        seconds=seconds,
        documents=source["documents_read"],
        kept=source["documents_kept"],
        tokens=source["num_tokens"],
        dropped=source["dropped"],
    )


def theirs(python: Path, side: str, inputs: Path, work: Path, tokenizer: Path) -> Outcome:
    script = Path(__file__).with_name("datatrove_side.py")
    seconds, record = timed([str(python), str(script), side, str(inputs), str(work), str(tokenizer)], work)
    return Outcome(seconds=seconds, **record)


def timed(command: list[str], work: Path) -> tuple[float, dict[str, Any]]:
    """(wall seconds, the JSON on the last line) of a process. Raises RuntimeError with what it said."""
    os.sync()  # what was written before is not this side's to wait for
    began = time.perf_counter()
    with (work / "stderr").open("w+b") as stderr:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, check=False)
        seconds = time.perf_counter() - began
        stderr.seek(0)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{stderr.read()[-3000:].decode()}")
    return seconds, json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def fresh(cache: Path) -> Iterator[Path]:
    """An empty folder on the cache's disk, gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir=cache, prefix="run-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def compare(side: str, cache: Path, megabytes: int, rounds: int) -> dict[str, list[Outcome]]:
    """Both sides in turn, after a small uncounted round that fills caches of compiled code and of imports."""
    python, tokenizer = python_with(cache / "datatrove", DATATROVE), tokenizer_json(cache)
    found: dict[str, list[Outcome]] = {"headrace": [], "datatrove": []}
    for counted in range(-1, rounds):
        inputs = text_of_packages(cache, mixed(side, megabytes if counted >= 0 else WARM_MEGABYTES))
        for path in inputs.iterdir():
            path.read_bytes()  # into the page cache, for both
        with fresh(cache) as work:
            mine = ours(side, inputs, work, tokenizer)
        with fresh(cache) as work:
            other = theirs(python, side, inputs, work, tokenizer)
        check(side, mine, other)
        if counted >= 0:
            found["headrace"].append(mine)
            found["datatrove"].append(other)
            print(f"{side}: headrace {mine.seconds:.1f} s, datatrove {other.seconds:.1f} s", flush=True)
    return found


def check(side: str, mine: Outcome, other: Outcome) -> None:
    """Fails unless both sides did the same work."""
    same = [(mine.documents, other.documents, "documents")]
    if side == "tokenize":
        same.append((mine.tokens, other.tokens, "tokens"))
    for ours_, theirs_, what in same:
        if ours_ != theirs_:
            raise SystemExit(f"{side}: headrace has {ours_:,} {what}, datatrove {theirs_:,}; this compares nothing")


def mixed(side: str, megabytes: int) -> dict[str, int]:
    """Megabytes of each kind of text, at least one."""
    return {kind: max(1, round(share * megabytes)) for kind, share in SHARES[side].items()}


def funnels(outcomes: dict[str, list[Outcome]]) -> str:
    """What each side dropped and kept, beside each other."""
    columns = []
    for name, rounds in outcomes.items():
        last = rounds[-1]
        rows = [("read", last.documents), *sorted(last.dropped.items(), key=lambda item: -item[1])]
        rows += [("kept", last.kept), ("tokens", last.tokens)]
        columns.append([f"{name:44}"] + [f"  {reason:30}{count:>10,}  " for reason, count in rows])
    height = max(map(len, columns))
    filled = [column + [" " * 44] * (height - len(column)) for column in columns]
    return "\n".join("".join(row).rstrip() for row in zip(*filled, strict=True))


def tokenizer_json(cache: Path) -> Path:
    """A tokenizer trained on a sample of all kinds of text."""
    from data_prep.tokenizer import train

    path = cache / f"tokenizer-{VOCAB_SIZE}.json"
    if not path.is_file():
        texts = []
        for kind in SHARES["tokenize"]:
            with everything(cache, kind).open("rb") as lines:
                texts += [orjson.loads(line)["text"] for line in islice(lines, 2_000)]
        write_atomic(path, train(texts, VOCAB_SIZE, END_OF_TEXT))
    return path


STEPS = {
    "hash inputs": ("fingerprints.py:fingerprints",),
    "read": ("documents.py:_read_jsonl",),
    "clean": ("clean.py:clean_all",),
    "language": ("language.py:languages_of",),
    "rules: kinds of bytes": ("characters.py:marked",),
    "rules: characters": ("scores.py:characters",),
    "rules: words": ("scores.py:words",),
    "rules: lines": ("scores.py:lines", "scores.py:short_lines"),
    "rules: n-grams": ("scores.py:ngrams",),
    "rules: C4": ("scores.py:c4",),
    "rules: C4's lines": ("c4.py:c4_lines",),
    "MinHash": ("shingles.py:word_hashes", "minhash.py:band_keys"),
    "save texts and scores": ("work.py:save_table",),
    "choose": ("choosing.py:choose", "choosing.py:keys_of"),
    "exact duplicates": ("deduplicating.py:find_duplicates",),
    "near-duplicates": ("deduplicating.py:find_near_pairs", "deduplicating.py:join_near_pairs"),
    "encode": ("tokenizer.py:encode_texts",),
    "check encoder": ("tokenizer.py:agrees",),
    "order tokens": ("stream.py:token_stream",),
    "save tokens": ("cells.py:save_part",),
    "shuffle": ("cells.py:read_cells", "cells.py:gathered"),
    "write shards": ("shards.py:write", "shards.py:finish"),
    "statistics": ("fates.py:describe_part",),
}
"""Step -> the functions of data_prep that it consists of; none calls another of them."""


def profile(side: str, cache: Path, megabytes: int) -> str:
    """CPU seconds of each step of a build in this process, and MB/s of one core, as a table in Markdown."""
    from data_prep.build import prepare
    from pipeline.config import load_config

    tokenizer = tokenizer_json(cache)
    for size in (WARM_MEGABYTES, megabytes):
        inputs = text_of_packages(cache, mixed(side, size))
        with fresh(cache) as work:
            path = work / "run.yaml"
            path.write_text(yaml.safe_dump(run_config(side, inputs, work, tokenizer)))
            config = load_config(path).data
            profiler = cProfile.Profile(time.process_time)
            profiler.runcall(prepare, config, work / "corpora", side, workers=0)
    size_mb = sum(file.stat().st_size for file in inputs.glob("*.jsonl")) / 1e6
    stats: Any = pstats.Stats(profiler)
    return table(seconds_of_steps(stats), stats.total_tt, size_mb)


def seconds_of_steps(stats: Any) -> dict[str, float]:
    """From a profile: the time in each step's functions and all that they call."""
    named: dict[str, float] = {}
    for (file, _, function), (_, _, _, cumulative, _) in stats.stats.items():
        if "data_prep" in file:
            key = f"{Path(file).name}:{function}"
            named[key] = named.get(key, 0.0) + cumulative
    return {step: sum(named.get(function, 0.0) for function in functions) for step, functions in STEPS.items()}


def table(seconds: dict[str, float], total_s: float, size_mb: float) -> str:
    rows = sorted(((name, s) for name, s in seconds.items() if s > 0), key=lambda row: -row[1])
    rows += [("other", total_s - sum(seconds.values())), ("**all**", total_s)]
    lines = [f"| {name} | {s:.2f} | {s / total_s:.0%} | {size_mb / s:,.0f} |" for name, s in rows]
    return "\n".join(["| step | CPU s | share | MB/s |", "| --- | ---: | ---: | ---: |", *lines])


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--megabytes", type=int, default=1000, help="text for tokenizing; datatrove does some 1.5 MB/s"
    )
    options.add_argument("--full-megabytes", type=int, default=200, help="text for the full side; some 0.5 MB/s")
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--only", choices=list(SHARES), help="one side of the two")
    options.add_argument("--ray", action="store_true", help="ours over a Ray that it starts and ends")
    options.add_argument("--profile", action="store_true", help="where our time goes, by step; no comparison")
    options.add_argument("--cache", type=Path, default=CACHE)
    chosen = options.parse_args()
    os.environ.pop("RAY_ADDRESS", None)
    if chosen.ray:
        os.environ["RAY_ADDRESS"] = "local"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # for all that is started from here
    sizes = {"tokenize": chosen.megabytes, "full": chosen.full_megabytes}
    sides = [chosen.only] if chosen.only else list(SHARES)
    if chosen.profile:
        for side in sides:
            print(f"{side}, {sizes[side]} MB\n\n{profile(side, chosen.cache, sizes[side])}\n", flush=True)
        return
    measure(chosen, {side: sizes[side] for side in sides})


def measure(chosen: argparse.Namespace, sizes: dict[str, int]) -> None:
    found = {side: compare(side, chosen.cache, size, chosen.rounds) for side, size in sizes.items()}
    print("\n".join(provenance(chosen.cache, sorted({kind for side in sizes for kind in SHARES[side]}))))
    for side, outcomes in found.items():
        print(f"\n{side}\n{funnels(outcomes)}\n")
    ratios = {
        f"{side}_vs_datatrove": median_ratio(
            [one.seconds for one in outcomes["datatrove"]], [one.seconds for one in outcomes["headrace"]]
        )
        for side, outcomes in found.items()
    }
    seconds = {
        side: {name: [round(one.seconds, 2) for one in rounds] for name, rounds in outcomes.items()}
        for side, outcomes in found.items()
    }
    goals = {key: goal for key, goal in GOALS.items() if key in ratios}
    report("prep", ratios, goals, as_json=chosen.json, megabytes=sizes, seconds=seconds)


if __name__ == "__main__":
    main()
