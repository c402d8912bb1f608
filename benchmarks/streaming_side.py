"""mosaicml-streaming's side of loader.py, run by the Python of an environment of its own.

    python streaming_side.py ROWS.npy FOLDER BATCH

Writes the rows (sequences, length) as uncompressed MDS shards of its default size into the folder, and then goes over
all of them once for each line on stdin, shuffled by its default algorithm, in batches of int64. Answers with one line:
{"sequences", "sum"}; the sum of the tokens only to the line "sum".

Its samples are taken straight from `StreamingDataset`, without a DataLoader, whose workers would send them on.
"""

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np


def without(module: str, *names: str) -> None:
    """A module that streaming imports for kinds of data that are not measured, and that pip has no small build of."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:depth]), ModuleType(".".join(parts[:depth])))
    for name in names:
        setattr(sys.modules[module], name, type(name, (), {}))


without("torchvision.datasets", "VisionDataset")
without("torchvision.transforms.functional", "to_tensor")
without("transformers.feature_extraction_utils", "BatchFeature")
without("transformers.tokenization_utils_base", "BatchEncoding")
without("transformers.models.auto.tokenization_auto", "AutoTokenizer")

from streaming import MDSWriter, StreamingDataset  # noqa: E402


def batches(dataset: StreamingDataset, size: int) -> Iterator[np.ndarray]:
    samples = iter(dataset)
    while taken := [sample["tokens"] for sample in islice(samples, size)]:
        yield np.stack(taken).astype(np.int64)


def main() -> None:
    rows, folder, size = np.load(sys.argv[1], mmap_mode="r"), Path(sys.argv[2]), int(sys.argv[3])
    with MDSWriter(out=str(folder), columns={"tokens": f"ndarray:{rows.dtype}:{rows.shape[1]}"}) as writer:
        for row in rows:
            writer.write({"tokens": np.asarray(row)})
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=size)
    for line in sys.stdin:
        seen = total = 0
        for batch in batches(dataset, size):
            seen += len(batch)
            if line.strip() == "sum":
                total += int(batch.sum())
        print(json.dumps({"sequences": seen, "sum": total}), flush=True)


if __name__ == "__main__":
    main()
