"""How much memory a build takes as its input grows: the driver and the largest worker process, sampled while they run.

    python -m benchmarks.prep_memory [--megabytes 100 500 2000] [--json]

Rules, exact and near duplicates and shards of 128 MB, on text of random words. Memory is what a process has for itself
(private and anonymous): pages of mapped files are the system's to take back. The ratio is that of the largest input to
the smallest; 1 is flat.
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil

from benchmarks.record import parser, report
from data_prep.build import prepare
from data_prep.config import CorpusConfig, DedupConfig, HeldoutConfig, MinHashConfig, SourceConfig, TokenizerConfig
from data_prep.small import byte_tokenizer

DOCUMENT_WORDS = 500
FILE_MEGABYTES = 50
SAMPLE_EVERY_S = 0.1


def write_text(folder: Path, megabytes: int) -> None:
    """JSON lines of random words, the same each time."""
    draw = np.random.default_rng(0)
    letters = draw.integers(97, 123, (50_000, 9), dtype=np.uint8)
    words = np.array([bytes(row[: 2 + at % 8]).decode() for at, row in enumerate(letters)], dtype=object)
    folder.mkdir()
    written = 0
    for number in range(-(-megabytes // FILE_MEGABYTES)):
        with (folder / f"part-{number:04d}.jsonl").open("wb") as file:
            size = 0
            while size < FILE_MEGABYTES * 1_000_000 and written < megabytes * 1_000_000:
                chosen = words[(len(words) * draw.random((200, DOCUMENT_WORDS)) ** 3).astype(np.int64)]
                data = b"".join(orjson.dumps({"text": " ".join(row)}) + b"\n" for row in chosen.tolist())
                size += file.write(data)
                written += len(data)


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """The most private memory, in bytes, that this process and any one Ray worker of its had at once."""
    peaks = {"driver": 0, "worker": 0}
    over = threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not over.wait(SAMPLE_EVERY_S):
            for process in (me, *me.children(recursive=True)):
                try:
                    kind = "driver" if process == me else "worker" if process.name().startswith("python") else ""
                    if kind:
                        info = process.memory_info()
                        peaks[kind] = max(peaks[kind], info.rss - info.shared)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def measured(folder: Path, megabytes: int) -> dict[str, Any]:
    write_text(folder / "in", megabytes)
    (folder / "bytes.json").write_bytes(byte_tokenizer())
    config = CorpusConfig(
        sources=(SourceConfig(name="random", path=str(folder / "in"), rules="gopher"),),
        tokenizer=TokenizerConfig(path=str(folder / "bytes.json")),
        sequence_length=2048,
        dedup=DedupConfig(minhash=MinHashConfig()),
        heldout=HeldoutConfig(fraction=0.001),
    )
    began = time.perf_counter()
    with watched() as peaks:
        _, manifest = prepare(config, folder / "out", "memory")
    return {
        "megabytes": megabytes,
        "seconds": round(time.perf_counter() - began, 1),
        "documents": manifest.sources[0].documents_read,
        "driver_mb": round(peaks["driver"] / 1e6),
        "worker_mb": round(peaks["worker"] / 1e6),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--megabytes", type=int, nargs="+", default=[100, 500, 2000], help="sizes of the input")
    chosen = options.parse_args()
    runs = []
    for megabytes in chosen.megabytes:
        with tempfile.TemporaryDirectory(prefix="headrace-memory-") as name:
            runs.append(measured(Path(name), megabytes))
        print(runs[-1], flush=True)
    ratios = {f"{who}_growth": runs[-1][f"{who}_mb"] / runs[0][f"{who}_mb"] for who in ("driver", "worker")}
    report("prep_memory", ratios, dict.fromkeys(ratios, 1.0), as_json=chosen.json, runs=runs)


if __name__ == "__main__":
    main()
