"""What a build of 10 TB on 100 nodes comes to: the real graph of tasks, with workers that only pretend.

    python -m benchmarks.prep_scale [--terabytes 10] [--nodes 100] [--cores 32] [--unit-megabytes 256] [--json]

The driver is the real one: it cuts the inputs, names the tasks, stores lists of parts, reads and adds up records, and
its seconds and memory are measured. A task is not run; the crew makes up its record from the rates below and moves a
clock for each core. So the number of tasks and files, the bytes between stages and the driver's share are those of the
code as it is, and the hours are as good as the rates, which are one core's in docs/benchmarks.md, at half speed for a
disk that many share.
"""

import heapq
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.record import parser, report
from data_prep import assemble, cells, parts
from data_prep.config import CorpusConfig, DedupConfig, MinHashConfig, SourceConfig, TokenizerConfig
from data_prep.crew import Call
from data_prep.graph import build_corpus, choose_documents
from data_prep.inputs import InputFile
from data_prep.manifest import ShardRecord, shard_name, sidecar_name
from data_prep.plan import Plan
from data_prep.small import byte_tokenizer
from data_prep.stages import Stages
from data_prep.statistics import Statistics
from data_prep.tokenizer import TokenizerFacts

DOCUMENT_BYTES = 3_300
BYTES_A_TOKEN = 4.3
KEPT, NEAR, EXACT = 0.4, 0.15, 0.05
"""Shares of the documents: of all that the rules leave; of those that are near and exact duplicates."""
MB_S = {"read": 15.0, "encode": 60.0, "merge": 100.0, "shards": 100.0, "settle": 2_000.0, "fates": 400.0}
"""Text that a core takes through a stage: half of what one core of two did."""
OPEN_S = 0.0005
"""To open a file of a shared disk and read a stretch of it."""
EDGES_S = 4.4e6
"""Pairs of near-duplicates that a core joins in a second."""


@dataclass
class Pretending:
    """A crew of so many cores, each with a clock."""

    cores: int
    clock_s: float = 0.0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    opened: Counter[str] = field(default_factory=Counter)

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        free = [self.clock_s] * self.cores
        longest = 0.0
        stage = str(calls[0][1][1]).partition("/")[0] if calls else ""
        for place, (function, arguments) in enumerate(calls):
            record, seconds, opened = DOES[function.__name__](*arguments)
            self.opened[stage] += opened
            seconds += opened * OPEN_S
            longest = max(longest, seconds)
            heapq.heappush(free, heapq.heappop(free) + seconds)
            yield place, record
        if calls:
            end = max(free)
            self.stages[stage] = {"tasks": len(calls), "seconds": end - self.clock_s, "longest_task_s": longest}
            self.clock_s = end


def megabytes(one: parts.Part) -> float:
    return one.text_bytes / 1e6


def read_unit(work: Any, name: str, refined: str, unit: Any) -> Any:
    size = sum(piece.end - piece.start for piece in unit.slices)
    documents = size // DOCUMENT_BYTES
    kept = int(documents * KEPT)
    part = parts.Part(
        source=0, docs=f"{refined}-0000", keys=f"{name}-0000", num_documents=kept, text_bytes=kept * DOCUMENT_BYTES
    )
    record = parts.SelectRecord(
        parts=(part,), documents_read=documents, dropped={"too_few_words": documents - kept}, content=name
    )
    return record, size / 1e6 / MB_S["read"], 8


def find_duplicates(work: Any, name: str, bucket: int, buckets: int, listed: str) -> Any:
    some = work.read_parts(listed)
    drops = int(sum(part.num_documents for part in some) * EXACT / buckets)
    return parts.DedupRecord(num_drops=drops), 4.0, len(some)


def find_near_pairs(work: Any, name: str, band: int, bucket: int, buckets: int, listed: str) -> Any:
    some = work.read_parts(listed)
    return parts.DedupRecord(num_drops=0), 3.0, len(some)


def join_near_pairs(work: Any, name: str, pairs: Sequence[str], exact: Sequence[str]) -> Any:
    return parts.NearRecord(num_drops=0, clusters={2: 1}), JOINED_PAIRS / EDGES_S, len(pairs) + len(exact)


def settle(work: Any, name: str, number: int, part: parts.Part, drops: Any) -> Any:
    left = int(part.num_documents * (1 - NEAR - EXACT))
    settled = parts.Part(source=0, docs=part.docs, keys=name, num_documents=left, text_bytes=left * DOCUMENT_BYTES)
    record = parts.SettleRecord(
        part=settled,
        dropped={"near_duplicate": int(part.num_documents * NEAR)},
        extremes=((0, 0, number), (1, 0, number), (2**64 - 1, 0, number)),
        content=name,
    )
    return record, megabytes(part) / MB_S["settle"], len(drops.exact) + len(drops.near)


def make_tokenizer(work: Any, name: str, samples: Sequence[str]) -> Any:
    with work.writing(name, "tokenizer") as file:
        file.write(byte_tokenizer())
    facts = TokenizerFacts(
        sha256="00" * 32, vocab_size=50_000, end_of_text_id=0, token_dtype="uint16", backend="gigatoken"
    )
    return facts, 5.0, 1


def encode_part(work: Any, name: str, part: parts.Part, *_: Any) -> Any:
    record = parts.EncodeRecord(
        name=name,
        agreed=True,
        num_documents=part.num_documents,
        text_bytes=part.text_bytes,
        num_tokens=int(part.text_bytes / BYTES_A_TOKEN),
        heldout_documents=0,
    )
    return record, megabytes(part) / MB_S["encode"], 5


def merge_parts(work: Any, name: str, some: range, num_cells: int, names: Sequence[str], facts: Any) -> Any:
    return cells.MergeRecord(num_documents=0), 64e6 * BYTES_A_TOKEN / 1e6 / MB_S["merge"], 3 * len(names)


def pack_cells(work: Any, name: str, some: range, num_cells: int, names: Sequence[str]) -> Any:
    tokens = int(TOTAL_TOKENS / num_cells)
    return assemble.PackRecord(cell_tokens=(tokens,) * len(some)), 0.001 * len(some), len(names)


def write_shard(work: Any, name: str, source: str, span: Any, names: Sequence[str], facts: Any) -> Any:
    path = work.output / "shards" / shard_name(source, span.number)
    record = ShardRecord(
        name=path.name,
        source=source,
        number=span.number,
        num_sequences=span.num_sequences,
        num_documents=1,
        cut_documents=0,
        size_bytes=0,
        sha256="00" * 32,
        docs_sha256="00" * 32,
    )
    text_mb = (span.end_token - span.first_token) * BYTES_A_TOKEN / 1e6
    assert sidecar_name(path.name)
    return record, text_mb / MB_S["shards"], 3 * len(names) + 2


def describe_part(work: Any, name: str, source: int, refined: str, settled: Any, bound: Any) -> Any:
    return Statistics(), (megabytes(settled) if settled else 0.0) / MB_S["fates"], 6


DOES = {
    function.__name__: function
    for function in (
        read_unit,
        find_duplicates,
        find_near_pairs,
        join_near_pairs,
        settle,
        make_tokenizer,
        encode_part,
        merge_parts,
        pack_cells,
        write_shard,
        describe_part,
    )
}
TOTAL_TOKENS = JOINED_PAIRS = 0.0


def main() -> None:
    global TOTAL_TOKENS, JOINED_PAIRS
    options = parser(__doc__)
    options.add_argument("--terabytes", type=float, default=10.0)
    options.add_argument("--nodes", type=int, default=100)
    options.add_argument("--cores", type=int, default=32, help="of a node")
    options.add_argument("--unit-megabytes", type=int, default=256)
    chosen = options.parse_args()
    text_bytes = chosen.terabytes * 1e12
    left = text_bytes * KEPT * (1 - NEAR - EXACT)
    TOTAL_TOKENS, JOINED_PAIRS = left / BYTES_A_TOKEN, text_bytes / DOCUMENT_BYTES * KEPT * NEAR * 7
    files = tuple(
        InputFile(
            url=f"/data/{n:06d}.jsonl",
            relative=f"{n:06d}.jsonl",
            size_bytes=10**9,
            version="1",
            kind="jsonl",
            compression="",
        )
        for n in range(int(text_bytes / 1e9))
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = CorpusConfig(
            sources=(SourceConfig(name="web", path="/data", rules="fineweb"),),
            tokenizer=TokenizerConfig(path="/tokenizer.json"),
            sequence_length=4096,
            dedup=DedupConfig(minhash=MinHashConfig()),
            unit_bytes=chosen.unit_megabytes * 1_000_000,
        )
        plan = Plan(
            config=config,
            name="web",
            inputs=(files,),
            fingerprints={file.url: file.relative for file in files},
            config_digest="0",
            tasks_digest="",
            tokenizer_digest="0",
            folder=folder / "web",
            work=folder / ".work-web",
        )
        crew = Pretending(cores=chosen.nodes * chosen.cores)
        began = time.process_time()
        stages = Stages(plan, crew, None)
        manifest = build_corpus(stages, choose_documents(stages))
        driver_s = time.process_time() - began
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    for stage, figures in crew.stages.items():
        print(
            f"{stage:10} {figures['tasks']:>9,.0f} tasks {figures['seconds']:>9,.0f} s"
            f"   longest {figures['longest_task_s']:>7,.1f} s   {crew.opened[stage]:>13,} files opened"
        )
    print(
        f"workers {crew.clock_s / 3600:.2f} h, driver {driver_s:.0f} s and {peak_mb:,.0f} MB; "
        f"{len(manifest.shards):,} shards, {manifest.sources[0].num_tokens:,} tokens"
    )
    report(
        "prep_scale",
        {"driver_share": driver_s / crew.clock_s},
        {"driver_share": 0.1},
        as_json=chosen.json,
        hours=round(crew.clock_s / 3600, 2),
        driver_s=round(driver_s),
        driver_mb=round(peak_mb),
        stages=crew.stages,
        opened=dict(crew.opened),
    )


if __name__ == "__main__":
    main()
