"""How fast batches come off the shards: our loader against webdataset's on the very same files, against
mosaicml-streaming's on the same tokens, and against a bare memory map.

    python -m benchmarks.loader [--megatokens 64] [--rounds 5] [--without-streaming] [--json]

Each side hands out every sequence of the corpus once, shuffled, in batches of 32 as int64 arrays in host memory; all
must count as many sequences and the same sum of tokens, or the run fails.

    vs_webdataset   their time over ours; shards and a buffer of 1,000 samples shuffled, its usual way
    vs_streaming    the same, shuffled by its default; streaming_side.py, in an environment of its own
    vs_mmap         a gather of random rows from one memory-mapped array, cast to int64, over ours: it finds and checks
                    nothing, so 1 would mean that finding and checking rows costs nothing

One process on each side, and no worker processes; ours and webdataset's files stay in the page cache and ours, like the
bare map, stay mapped from round to round. Ours has its one reading thread. The consumer does nothing with a batch,
which is the worst case for reading ahead: it always waits.
"""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import webdataset
from numpy.typing import NDArray

from benchmarks.record import CACHE, alternate, median_ratio, parser, python_with, report
from data_prep.manifest import Manifest
from data_prep.shards import open_shard
from data_prep.small import write_small_corpus
from pipeline.batches import Batches
from pipeline.data.corpus_shards import LocalShards
from pipeline.data.loader import Loader
from pipeline.data.mixture import BLOCK
from pipeline.data.order import order_of

LENGTH, BATCH = 2048, 32
DOCUMENT_ROWS = 64
GOALS = {"vs_webdataset": 20.0, "vs_streaming": 20.0, "vs_mmap": 0.5}
EPOCHS = 10
"""Epochs in a round of the fast sides, ours and the bare map: one takes less than a tenth of a second."""
STREAMING = (
    ("--no-deps", "mosaicml-streaming==0.13.0"),
    ("torch", "numpy<2.2", "xxhash<4", "brotli", "catalogue", "filelock", "pillow", "python-snappy", "tqdm", "zstd"),
)
"""What it imports, of what it asks for: the rest are clients of stores, and torchvision, which PyPI has for GPUs."""

Side = Callable[[], Iterator[NDArray[np.int64]]]


def make_corpus(folder: Path, megatokens: int) -> Manifest:
    """A corpus of random letters, a token a byte, in shards of 75 MB. Our epochs end where the mixture's blocks do."""
    documents = max(1, megatokens * 1_000_000 // (BLOCK * LENGTH)) * (BLOCK // DOCUMENT_ROWS)
    size = DOCUMENT_ROWS * LENGTH - 1  # and the end of text
    generator = np.random.default_rng(0)
    letters = generator.integers(97, 123, size=documents * size, dtype=np.uint8).tobytes().decode()
    texts = [(f"d{at}", letters[at * size : (at + 1) * size]) for at in range(documents)]
    return write_small_corpus(folder, {"letters": texts}, sequence_length=LENGTH, sequences_per_shard=16_384)


def rows_of(folder: Path, manifest: Manifest) -> NDArray[np.uint16]:
    return np.concatenate([open_shard(folder / "shards" / shard.name, manifest) for shard in manifest.shards])


def ours(loader: Loader, steps: int) -> Side:
    """An epoch after the other: the loader goes on where it is, as in a run."""
    done = 0

    def epoch() -> Iterator[NDArray[np.int64]]:
        nonlocal done
        for step in range(done, done + steps):
            yield loader.batch(step)[0].astype(np.int64)
        done += steps

    return epoch


def webdatasets(folder: Path, manifest: Manifest) -> Side:
    urls = [str(folder / "shards" / shard.name) for shard in manifest.shards]

    def epoch() -> Iterator[NDArray[np.int64]]:
        samples = iter(webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(1_000))
        while taken := [np.frombuffer(sample["bin"], dtype="<u2") for sample in islice(samples, BATCH)]:
            yield np.stack(taken).astype(np.int64)

    return epoch


def mapped(rows: NDArray[np.uint16]) -> Side:
    order = np.random.default_rng(1).permutation(len(rows)).reshape(-1, BATCH)
    return lambda: (rows[some].astype(np.int64) for some in order)


def consume(side: Side, epochs: int) -> Callable[[], None]:
    return lambda: [sum(len(batch) for batch in side()) for _ in range(epochs)] and None


def seen(side: Side) -> tuple[int, int]:
    """(sequences, the sum of all their tokens)."""
    counts = [(len(batch), int(batch.sum())) for batch in side()]
    return sum(count for count, _ in counts), sum(total for _, total in counts)


@contextlib.contextmanager
def streaming(rows_file: Path, folder: Path) -> Iterator[Callable[[str], tuple[int, int]]]:
    """Asks the other process for an epoch."""
    script = Path(__file__).with_name("streaming_side.py")
    command = [python_with(CACHE / "streaming", *STREAMING), script, rows_file, folder, str(BATCH)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def epoch(what: str) -> tuple[int, int]:
            print(what, file=process.stdin, flush=True)
            answer = json.loads(process.stdout.readline() or '{"sequences": 0, "sum": 0}')
            return answer["sequences"], answer["sum"]

        yield epoch
        process.stdin.close()


def measure(megatokens: int, rounds: int, *, with_streaming: bool) -> tuple[dict[str, float], dict[str, float]]:
    """(ratios, millions of tokens a second of each side at its median)."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        manifest = make_corpus(folder, megatokens)
        np.save(folder / "rows.npy", rows_of(folder, manifest))
        rows = np.load(folder / "rows.npy", mmap_mode="r")
        loader = stack.enter_context(
            Loader(
                LocalShards(folder, manifest),
                manifest,
                order_of(manifest, (1.0,), seed=0),
                rank=0,
                world_size=1,
                batches=Batches(size=BATCH),
                micro_batch_size=BATCH,
            )
        )
        sides = {
            "ours": ours(loader, len(rows) // BATCH),
            "webdataset": webdatasets(folder, manifest),
            "mmap": mapped(rows),
        }
        found = {name: seen(side) for name, side in sides.items()}
        epochs = {"ours": EPOCHS, "mmap": EPOCHS}
        runs: dict[str, Callable[[], object]] = {
            name: consume(side, epochs.get(name, 1)) for name, side in sides.items()
        }
        if with_streaming:
            ask = stack.enter_context(streaming(folder / "rows.npy", folder / "mds"))
            found["streaming"], runs["streaming"] = ask("sum"), lambda: ask("count")
        if len(set(found.values())) != 1:
            raise SystemExit(f"(sequences, sum of tokens) differ: {found}; this compares nothing")
        seconds = {
            name: [one / epochs.get(name, 1) for one in taken] for name, taken in alternate(runs, rounds).items()
        }
    ratios = {f"vs_{name}": median_ratio(taken, seconds["ours"]) for name, taken in seconds.items() if name != "ours"}
    speeds = {name: round(rows.size / sorted(taken)[rounds // 2] / 1e6, 1) for name, taken in seconds.items()}
    return ratios, speeds


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--megatokens", type=int, default=64, help="size of the corpus")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--without-streaming", action="store_true", help="without an environment for it from PyPI")
    chosen = options.parse_args()
    ratios, speeds = measure(chosen.megatokens, chosen.rounds, with_streaming=not chosen.without_streaming)
    print("  ".join(f"{name} {speed:,} Mtoken/s" for name, speed in speeds.items()))
    goals = {name: goal for name, goal in GOALS.items() if name in ratios}
    report("loader", ratios, goals, as_json=chosen.json, megatokens_per_s=speeds)


if __name__ == "__main__":
    main()
