"""How fast batches come off the shards: our loader against webdataset's on the very same files, and against a bare
memory map.

    python benchmarks/loader.py [--megatokens 64] [--json]

Ratios: `vs_webdataset` (their time over ours for the same tokens) and `vs_mmap` (the time of a gather of random rows
from one memory-mapped array, cast to int64, over ours: 1 would mean that finding and checking rows costs nothing). All
in one process and one thread.
"""

import tempfile
from pathlib import Path

import numpy as np
import webdataset

from benchmarks.record import alternate, median_ratio, parser, report
from data_prep.manifest import Manifest
from data_prep.small import write_small_corpus
from pipeline.batches import Batches
from pipeline.data.corpus_shards import LocalShards
from pipeline.data.loader import Loader
from pipeline.data.order import order_of

LENGTH, BATCH = 2048, 32


def make_corpus(folder: Path, megatokens: int) -> Manifest:
    """A corpus of random letters, a token a byte, in shards of 64 MB."""
    generator = np.random.default_rng(0)
    letters = generator.integers(97, 123, size=megatokens * 1_000_000, dtype=np.uint8).tobytes().decode()
    documents = [(f"d{at}", letters[at : at + 100_000]) for at in range(0, len(letters), 100_000)]
    return write_small_corpus(folder, {"letters": documents}, sequence_length=LENGTH, sequences_per_shard=16_384)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--megatokens", type=int, default=64, help="size of the corpus")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = make_corpus(folder, chosen.megatokens)
        steps = manifest.sources[0].num_sequences // BATCH
        urls = [str(folder / "shards" / shard.name) for shard in manifest.shards]
        flat = np.memmap(folder / "flat.bin", dtype=np.uint16, mode="w+", shape=(steps * BATCH, LENGTH))
        flat[:] = 7
        rows = np.random.default_rng(1).permutation(steps * BATCH).reshape(steps, BATCH)

        def ours() -> int:
            order = order_of(manifest, (1.0,), seed=0)
            with Loader(
                LocalShards(folder, manifest),
                manifest,
                order,
                rank=0,
                world_size=1,
                batches=Batches(size=BATCH),
                micro_batch_size=BATCH,
            ) as loader:
                return sum(loader.batch(step).shape[1] for step in range(steps))

        def theirs() -> int:
            samples = webdataset.WebDataset(urls, shardshuffle=False).map(as_tokens).batched(BATCH)
            return sum(len(batch) for batch in samples)

        def mmap() -> int:
            return sum(len(flat[rows[step]].astype(np.int64)) for step in range(steps))

        seconds = alternate({"ours": ours, "webdataset": theirs, "mmap": mmap}, rounds=3)
        ratios = {
            "vs_webdataset": median_ratio(seconds["webdataset"], seconds["ours"]),
            "vs_mmap": median_ratio(seconds["mmap"], seconds["ours"]),
        }
        speed = {name: round(steps * BATCH * LENGTH / min(times) / 1e6, 1) for name, times in seconds.items()}
        report("loader", ratios, {"vs_webdataset": 20, "vs_mmap": 0.5}, as_json=chosen.json, megatokens_per_s=speed)


def as_tokens(sample: dict[str, bytes]) -> np.ndarray:
    return np.frombuffer(sample["bin"], dtype="<u2").astype(np.int64)


if __name__ == "__main__":
    main()
