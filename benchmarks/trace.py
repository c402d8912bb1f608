"""How long `headrace trace` and `headrace where` take, as whole processes, on a corpus of a million shards.

    python -m benchmarks.trace [--shards 1000000] [--cells-per-shard 8] [--json]

The corpus is a table of so many shards and what the two searches read of it: the sidecars that they touch, 4,096 rows
and 65,536 documents each, and the cells. The shards themselves are left out, as neither verb opens one. Ratios: the
goal of one second over the median of each verb. `cpu_seconds` is what a verb takes of the processor, which on a loaded
machine is much less than the clock says.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from benchmarks.record import alternate, parser, report
from data_prep.files import sha256_file
from data_prep.keys import SHUFFLE, document_key
from data_prep.manifest import Manifest, cells_name, sealed, shard_name, sidecar_name, write_manifest
from data_prep.pack import cell_of
from data_prep.shard_table import SHARD, Shards
from data_prep.shards import SIDECAR_SCHEMA, SidecarWriter
from data_prep.small import write_small_corpus
from pipeline.config import load_config
from pipeline.data.order import order_of
from pipeline.runs import pin
from pipeline.workspace import open_workspace

LENGTH, ROWS, DOCUMENTS_PER_ROW = 2048, 4_096, 16
STEP, BATCH, DOCUMENT = 123_456, 256, "https://example.org/271828"


def make_corpus(folder: Path, num_shards: int, cells_per_shard: int, document: str = DOCUMENT) -> Manifest:
    """Writes a corpus of equal shards, but only those files of it that step `STEP` and the document lead to."""
    small = write_small_corpus(folder, {"web": [("x", "y")]}, sequence_length=LENGTH, seed=1)
    num_cells = num_shards * cells_per_shard
    cells = folder / "shards" / cells_name("web")
    np.save(cells, np.arange(num_cells + 1) * (ROWS * LENGTH // cells_per_shard))
    source = replace(
        small.sources[0], num_sequences=num_shards * ROWS, num_shards=num_shards, cells_sha256=sha256_file(cells)
    )
    table = np.zeros(num_shards, dtype=SHARD)
    table["number"], table["num_sequences"], table["num_documents"] = (
        np.arange(num_shards),
        ROWS,
        ROWS * DOCUMENTS_PER_ROW,
    )
    manifest = replace(small, sequences_per_shard=ROWS, sources=(source,), shards=Shards(table, ("web",)))

    key = document_key(SHUFFLE, manifest.seed, "web", document)
    [cell] = cell_of(np.asarray([key], dtype=np.uint64), num_cells).tolist()
    held_by, row = cell // cells_per_shard, cell % cells_per_shard * (ROWS // cells_per_shard)
    positions = np.arange((STEP - 1) * BATCH, STEP * BATCH)
    read = np.unique(order_of(manifest, (1.0,), 0).locate(positions).shard).tolist()
    for number in {*read, held_by}:
        sidecar = folder / "shards" / sidecar_name(shard_name("web", number))
        write_sidecar(sidecar, number, {row * DOCUMENTS_PER_ROW: document} if number == held_by else {})
        table["docs_sha256"][number] = np.frombuffer(bytes.fromhex(sha256_file(sidecar)), dtype=np.uint8)
    manifest = sealed(manifest)
    write_manifest(folder, manifest)
    return manifest


def write_sidecar(path: Path, number: int, given: dict[int, str]) -> None:
    """16 documents a row, each with an id of its own, or with the one that is given for its place."""
    place = np.arange(ROWS * DOCUMENTS_PER_ROW)
    ids = [given.get(at, f"https://example.org/{number}/{at}") for at in place.tolist()]
    tokens = LENGTH // DOCUMENTS_PER_ROW
    columns = {
        "row": place // DOCUMENTS_PER_ROW,
        "first_token": place % DOCUMENTS_PER_ROW * tokens,
        "length": np.full(len(place), tokens),
    }
    with SidecarWriter(path) as writer:
        writer.write(pa.table({"id": ids, "source": ["web"] * len(ids), **columns}).cast(SIDECAR_SCHEMA))


def write_config(folder: Path) -> Path:
    tree = {
        "name": "million",
        "workspace": str(folder / "workspace"),
        "data": {
            "sources": [{"name": "web", "path": "unread"}],
            "tokenizer": {"train": {"vocab_size": 257}},
            "sequence_length": LENGTH,
        },
        "model": {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2},
        "train": {
            "tokens": 2 * STEP * BATCH * LENGTH,
            "global_batch_size": BATCH,
            "micro_batch_size": BATCH,
            "optimizer": {"lr": 1e-3},
        },
        "cluster": {"processes_per_node": 1},
    }
    path = folder / "million.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--shards", type=int, default=1_000_000, help="shards in the table")
    options.add_argument("--cells-per-shard", type=int, default=8, help="a power of two")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = write_config(Path(name))
        config = load_config(path)
        workspace = open_workspace(config)
        corpus = workspace.corpora / "million-1"
        manifest = make_corpus(corpus, chosen.shards, chosen.cells_per_shard)
        pin(config, workspace.run(config.name), corpus, manifest)

        cpu_s: dict[str, list[float]] = {"trace": [], "where": []}

        def headrace(verb: str, *words: str) -> Any:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-m", "pipeline.cli", verb, str(path), *words, "--json"]
            answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu_s[verb].append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
            return answer

        def trace() -> None:
            assert len(headrace("trace", "--step", str(STEP))["documents"]) == BATCH * DOCUMENTS_PER_ROW

        def where() -> None:
            one_epoch = str(chosen.shards * ROWS // BATCH)
            assert len(headrace("where", "--id", DOCUMENT, "--until-step", one_epoch)["visits"]) == 1

        seconds = alternate({"trace": trace, "where": where}, rounds=5)
        figures = {
            name: {verb: round(statistics.median(some), 3) for verb, some in by_verb.items()}
            for name, by_verb in (("seconds", seconds), ("cpu_seconds", cpu_s))
        }
        for name, medians in figures.items():
            print(name, medians)
        ratios = {f"second_over_{verb}": 1 / statistics.median(some) for verb, some in seconds.items()}
        report("trace", ratios, dict.fromkeys(ratios, 1), as_json=chosen.json, shards=chosen.shards, **figures)


if __name__ == "__main__":
    main()
