"""Builds struck down by kill -9 at instants that nobody chose: each ends as the unbroken build, byte for byte.

    python -m tests.data_prep.drill --kills 20 [--documents 5000] [--seed 7] [--ray]

A kill strikes the driver, a worker or, with --ray, all of Ray, anywhere in the time that the unbroken build takes. A
build that lost its driver or its Ray is started again and struck again, until one comes to its end; that is compared
with the unbroken one, and the next begins from nothing. What was recorded as done when a driver was struck must not be
done again.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from data_prep.build import prepare
from data_prep.config import (
    CorpusConfig,
    DecontaminateConfig,
    DedupConfig,
    LineDedupConfig,
    MinHashConfig,
    PiiConfig,
    SourceConfig,
    TokenizerConfig,
    TokenizerTrainConfig,
)
from data_prep.verify import verify
from tests.data_prep.corpora import files_of, texts, write_lines
from tests.data_prep.killing import end_session, marked

HUNG_S = 180.0
"""A build that takes longer is a failure of the drill: an unbroken one takes some seconds."""
WORKERS = 3
DRIVER = """
import sys
from pathlib import Path
from data_prep.build import prepare
from tests.data_prep.drill import WORKERS, everything
prepare(everything(Path(sys.argv[1])), Path(sys.argv[2]), "demo", workers=WORKERS, keep_dropped=True)
"""


def write_documents(folder: Path, count: int) -> None:
    """Two sources in several files; every tenth document is there twice and every tenth nearly, some have a line of
    others, an address or what a quiz asks."""
    made = texts(count)
    for one in range(0, count, 10):
        made[one] = made[(one * 7 + 5) % count]
        made[one + 1] = f"{made[(one * 3 + 2) % count]} so he said\n"
        made[one + 3] += f"write to someone{one}@example.org, he said\n"
        made[one + 6] += "a line that stands in many a document of this source\n"
    for place in range(8):
        mine = [{"id": f"{place}-{at}", "text": text} for at, text in enumerate(made[place::8])]
        write_lines(folder / ("prose" if place < 6 else "code") / f"{place}.jsonl", mine)
    write_lines(folder / "quiz.jsonl", [{"question": text} for text in made[7::97]])


def everything(folder: Path) -> CorpusConfig:
    """A build with every stage that there is."""
    rules = ({"rule": "gopher_quality", "min_words": 5, "min_stop_words": 0}, "gopher_repeated_lines")
    return CorpusConfig(
        sources=(
            SourceConfig(
                name="prose",
                path=f"{folder}/prose",
                rules=rules,
                pii=PiiConfig(action="replace"),
                line_dedup=LineDedupConfig(),
            ),
            SourceConfig(name="code", path=f"{folder}/code"),
        ),
        tokenizer=TokenizerConfig(train=TokenizerTrainConfig(vocab_size=400)),
        dedup=DedupConfig(minhash=MinHashConfig(permutations=32)),
        decontaminate=DecontaminateConfig(tasks={"quiz": f"{folder}/quiz.jsonl"}),
        packing="best_fit",
        sequence_length=128,
        shard_bytes=60_000,
        unit_bytes=60_000,
    )


def records(out: Path) -> dict[Path, int]:
    """The records of tasks and when each was written, in nanoseconds."""
    found = (out / ".work-demo").glob("*/*.json")
    return {path: path.stat().st_mtime_ns for path in found if path.parent.name != "parts"}


def start(inputs: Path, out: Path, over_ray: bool) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "TMPDIR": str(out.parent)}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", DRIVER, str(inputs), str(out)],
        stdin=subprocess.DEVNULL,
        env=environment | ({"RAY_ADDRESS": "local"} if over_ray else {}),
        start_new_session=True,
    )


def strike(session: int, victim: str, draw: random.Random) -> bool:
    """Kills the driver, one of its workers, or all processes of its Ray; whether there was one."""
    marks = {"worker": ("data_prep.worker", "ray::guarded", "ray::IDLE"), "ray": ("gcs_server", "raylet", "ray::")}
    found = [session] if victim == "driver" else marked(session, *marks[victim])
    for pid in found if victim == "ray" else draw.sample(found, k=min(1, len(found))):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
    return bool(found)


def play(inputs: Path, out: Path, draw: random.Random, span_s: float, over_ray: bool) -> str:
    """One start, struck once. Gives whom it struck; nothing if it came to its end first. Raises AssertionError if what
    was done is done again, or if the build falls with a worker."""
    before = records(out)
    victim = draw.choice(["driver", "worker", "ray"] if over_ray else ["driver", "worker"])
    process = start(inputs, out, over_ray)
    try:
        try:
            process.wait(draw.uniform(0, span_s))
            struck = False
        except subprocess.TimeoutExpired:
            struck = strike(process.pid, victim, draw)
        code = process.wait(HUNG_S)
    finally:
        end_session(process.pid)
    assert code == 0 or (struck and victim != "worker"), f"{victim} struck: {struck}; the build ended with {code}"
    again = [str(path) for path, when in records(out).items() if before.get(path, when) != when]
    assert not again, f"these were done and were done again: {again}"
    return victim if struck else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.data_prep.drill")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--documents", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--ray", action="store_true", help="over a Ray of its own instead of processes")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="drill-", dir="/tmp"))  # short, or Ray's sockets would go elsewhere
    write_documents(folder / "in", options.documents)
    for name in ("warm", "unbroken"):  # the first may have to compile kernels
        began = time.monotonic()
        process = start(folder / "in", folder / name, options.ray)
        assert process.wait(HUNG_S) == 0, "the unbroken build failed"
        span_s = time.monotonic() - began
    whole, manifest = prepare(everything(folder / "in"), folder / "unbroken", "demo")
    expected = files_of(whole)
    print(f"seed {options.seed}: unbroken in {span_s:.1f} s, {len(expected)} files, {manifest.digest}", flush=True)
    draw, kills, builds = random.Random(options.seed), Counter[str](), 0
    while kills.total() < options.kills:
        out = folder / f"struck-{builds}"
        while not list(out.glob("demo-*/manifest.json")):
            kills.update(filter(None, [play(folder / "in", out, draw, span_s, options.ray)]))
        made, _ = prepare(everything(folder / "in"), out, "demo")
        differ = sorted(name for name, data in expected.items() if files_of(made).get(name) != data)
        assert not differ, f"{out}: {differ} differ from the unbroken build's"
        assert files_of(made).keys() == expected.keys(), f"{out}: it has other files"
        assert verify(made) == ()
        builds += 1
        print(f"build {builds}: as the unbroken one; kills so far: {dict(kills)}", flush=True)
        shutil.rmtree(out)
    shutil.rmtree(folder)  # after a failure it stays
    print(f"{kills.total()} kills in {builds} builds: {dict(kills)}; every build {manifest.digest}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
