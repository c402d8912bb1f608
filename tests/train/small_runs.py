"""Small real runs for the tests: two DeepSpeed ranks over gloo on a tiny corpus, started, killed and started again."""

import random
from pathlib import Path

import psutil
import yaml

from cluster.world import World
from data_prep.manifest import Manifest
from data_prep.small import write_small_corpus
from pipeline.config import ModelConfig
from pipeline.data.position import Position
from pipeline.monitor.journal import read_journal, unbroken
from pipeline.train.checkpoint import Checkpoint
from tests.warm import Ranks

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "water",
    "mill",
    "wheel",
    "channel",
    "brings",
    "raw",
    "text",
    "stone",
    "grain",
    "flour",
    "river",
]
ALONE = World(rank=0, size=1, local_rank=0, local_size=1, master_addr="127.0.0.1", master_port=0)
RECORD = Checkpoint(
    run="small",
    step=0,
    tokens=0,
    position=Position(manifest_digest="", order_version=1, seed=0, next_sequence=0),
    config_digest="",
    world_size=1,
    zero_stage=0,
    precision="fp32",
    model=ModelConfig(layers=1, width=8, heads=2),
    vocab_size=257,
    end_of_text_id=256,
    sequence_length=64,
    tokenizer_sha256="",
    corpus="",
    files={},
)
"""What a checkpoint says, for tests that care about its files only."""
SCRIPT = Path(__file__).with_name("train_small.py")


def sentences(prefix: str, count: int) -> list[tuple[str, str]]:
    """Documents of random words, the same each time."""
    generator = random.Random(prefix)
    return [(f"{prefix}{i}", " ".join(generator.choices(WORDS, k=generator.randint(5, 120)))) for i in range(count)]


def small_corpus(folder: Path, sequences_per_shard: int = 64) -> Manifest:
    return write_small_corpus(
        folder,
        {"prose": sentences("prose", 120), "code": sentences("code", 60)},
        heldout={"prose": sentences("held-prose", 9), "code": sentences("held-code", 5)},
        sequence_length=64,
        sequences_per_shard=sequences_per_shard,
    )


def config_tree(workspace: Path, *, steps: int, every_steps: int, stage: int = 1, ranks: int = 2) -> dict[str, object]:
    return {
        "name": "small",
        "workspace": str(workspace),
        "data": {
            "sources": [
                {"name": "prose", "path": "unread", "weight": 0.7},
                {"name": "code", "path": "unread", "weight": 0.3},
            ],
            "tokenizer": {"train": {"vocab_size": 257}},
            "sequence_length": 64,
        },
        "model": {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2},
        "train": {
            "tokens": steps * 8 * 64,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "optimizer": {"lr": 3e-3},
            "schedule": {"warmup_steps": 2},
            "precision": "fp32",
            "zero": {"stage": stage},
            "checkpoint": {"every_steps": every_steps},
        },
        "cluster": {"processes_per_node": ranks},
    }


def write_config(path: Path, tree: dict[str, object]) -> Path:
    path.write_text(yaml.safe_dump(tree))
    return path


def start_ranks(
    config: Path,
    corpus: Path,
    *overrides: str,
    ranks: int = 2,
    file_bytes: int | None = None,
    script: tuple[str, ...] = (str(SCRIPT),),
) -> Ranks:
    """Starts the ranks of one run."""
    return start_script(*script, config, corpus, *overrides, ranks=ranks, file_bytes=file_bytes)


def start_script(*script: Path | str, ranks: int, file_bytes: int | None = None) -> Ranks:
    """Starts a script, with its arguments, as that many ranks."""
    return Ranks([*map(str, script)], ranks, file_bytes)


def harm(kind: str, call: int) -> tuple[str, ...]:
    """The script to start, and what it does to the run (`train_harmed.py`)."""
    return str(SCRIPT.with_name("train_harmed.py")), kind, str(call)


def run_ranks(config: Path, corpus: Path, *overrides: str, ranks: int = 2) -> None:
    process = start_ranks(config, corpus, *overrides, ranks=ranks)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def kill_tree(process: Ranks) -> None:
    """SIGKILL to a process we started and all it started."""
    try:
        parent = psutil.Process(process.pid)
        members = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        members = []
    for member in members:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.communicate(timeout=60)


def curve(run: Path) -> list[tuple[object, ...]]:
    """What must be equal bit by bit, step by step: JSON stores a float so that reading it gives the same float."""
    return [
        (line["step"], line["loss"], line["grad_norm"], line["lr"], line["batch_digest"])
        for line in unbroken(read_journal(run / "metrics.jsonl"))
    ]
