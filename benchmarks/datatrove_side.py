"""datatrove's side of prep.py, run by the Python of an environment of its own.

    python datatrove_side.py tokenize|full INPUT_FOLDER WORK_FOLDER TOKENIZER_JSON

`tokenize`:  JsonlReader -> DocumentTokenizer. Documents are shuffled inside each output file, its default; the merging
step behind it (DocumentTokenizerMerger), which would shuffle them over all files as headrace does, is left out.

`full`, in as few passes as its blocks allow:

    JsonlReader -> Gopher repetition -> Gopher quality -> C4 -> FineWeb -> JsonlWriter -> exact signatures
    exact duplicates
    JsonlReader -> exact filter -> MinHash signatures
    MinHash buckets;  MinHash clusters
    JsonlReader -> exact filter -> MinHash filter -> DocumentTokenizer

Word tokenizer: English, which is spaCy's blank pipeline: rules in the package, no download. What is written and read
between the passes is not compressed. The last line on stdout is {"documents", "kept", "tokens", "dropped"}, with what
each block dropped in the order of the blocks.
"""

import json
import sys
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.stats import PipelineStats

WORKERS = 2
END_OF_TEXT = "<|endoftext|>"
BATCH_DOCUMENTS = 1_000
"""Encoded at a time. As fast as its default of 10,000, which with documents of 10 kB takes 3 GB of memory a worker."""


def text_of(document: Document) -> str:
    return document.text


def tokenize(inputs: Path, work: Path, tokenizer: str, tasks: int) -> list[PipelineStats]:
    return [run([JsonlReader(str(inputs)), encoder(work, tokenizer)], work / "logs", tasks)]


def full(inputs: Path, work: Path, tokenizer: str, tasks: int) -> list[PipelineStats]:
    kept, signatures, duplicates = str(work / "kept"), str(work / "exact-signatures"), str(work / "exact-duplicates")
    near, buckets, clusters = str(work / "near-signatures"), str(work / "near-buckets"), str(work / "near-clusters")
    exact = ExactDedupConfig(content_getter=text_of)
    minhash = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    filters = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(), FineWebQualityFilter()]
    writer = JsonlWriter(kept, output_filename="${rank}.jsonl", compression=None)
    unique = [JsonlReader(kept), ExactDedupFilter(duplicates, exact)]
    passes = [
        (tasks, [JsonlReader(str(inputs)), *filters, writer, ExactDedupSignature(signatures, exact)]),
        (1, [ExactFindDedups(signatures, duplicates, exact)]),
        (tasks, [*unique, MinhashDedupSignature(near, minhash)]),
        (minhash.num_buckets, [MinhashDedupBuckets(near, buckets, config=minhash)]),
        (1, [MinhashDedupCluster(buckets, clusters, minhash)]),
        (tasks, [*unique, MinhashDedupFilter(clusters), encoder(work, tokenizer)]),
    ]
    return [run(steps, work / f"logs-{place}", count) for place, (count, steps) in enumerate(passes)]


def encoder(work: Path, tokenizer: str) -> DocumentTokenizer:
    return DocumentTokenizer(str(work / "tokens"), tokenizer, eos_token=END_OF_TEXT, batch_size=BATCH_DOCUMENTS)


def run(steps: list[Any], logs: Path, tasks: int) -> PipelineStats:
    return LocalPipelineExecutor(steps, tasks=tasks, workers=min(tasks, WORKERS), logging_dir=str(logs)).run()


def main() -> None:
    side, inputs, work, tokenizer = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    passes = {"tokenize": tokenize, "full": full}[side](inputs, work, tokenizer, len(list(inputs.glob("*.jsonl"))))
    blocks = [block for stats in passes for block in stats.stats]
    print(json.dumps(summary(blocks)))


def summary(blocks: list[Any]) -> dict[str, Any]:
    """What went in, what came out, and why the rest was dropped. The exact filter runs twice and drops the same."""
    read, written = blocks[0].stats["documents"], blocks[-1].stats["tokens"]
    dropped: dict[str, int] = {}
    for block in blocks:
        reasons = {key: int(stat.total) for key, stat in block.stats.items() if key.startswith("dropped_")}
        if not reasons and "dropped" in block.stats:
            reasons = {f"dropped_{block.name}": int(block.stats["dropped"].total)}
        dropped |= {key.removeprefix("dropped_"): count for key, count in reasons.items()}
    documents = int(read.total)
    return {
        "documents": documents,
        "kept": documents - sum(dropped.values()),
        "tokens": int(written.total),
        "dropped": dropped,
    }


if __name__ == "__main__":
    main()
