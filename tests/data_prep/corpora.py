"""Small inputs and configs for tests of whole builds."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.config import CorpusConfig, HeldoutConfig, SourceConfig, TokenizerConfig, TokenizerTrainConfig
from data_prep.manifest import Manifest

WORDS = ("the", "of", "to", "and", "that", "stone", "river", "mill", "wheel", "water", "flows", "slowly", "turning")


def texts(count: int, seed: int = 0) -> list[str]:
    """So many different texts of 1 to 120 words."""
    draw = random.Random(seed)
    return [f"{i} " + " ".join(draw.choices(WORDS, k=draw.randint(1, 120))) + "\n" for i in range(count)]


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_inputs(folder: Path) -> None:
    """Two sources over a few files: duplicates inside and between them, bad lines, ids given and not."""
    some = texts(300)
    write_lines(folder / "prose" / "b.jsonl", [{"id": f"p{i}", "text": text} for i, text in enumerate(some[:120])])
    write_lines(folder / "prose" / "a.jsonl", [{"text": text} for text in some[100:200]])
    with (folder / "prose" / "a.jsonl").open("a") as file:
        file.write('nonsense\n{"no": "text"}\n{"text": " \\r\\n "}\n')
    write_lines(folder / "code" / "c.jsonl", [{"id": f"c{i}", "text": text} for i, text in enumerate(some[190:])])


def config(folder: Path, **changes: Any) -> CorpusConfig:
    """A config over `write_inputs(folder)`."""
    made = CorpusConfig(
        sources=(
            SourceConfig(name="prose", path=f"{folder}/prose/*.jsonl", weight=2.0),
            SourceConfig(name="code", path=f"{folder}/code"),
        ),
        tokenizer=TokenizerConfig(train=TokenizerTrainConfig(vocab_size=320)),
        sequence_length=64,
        shard_bytes=20_000,
        heldout=HeldoutConfig(fraction=0.05),
    )
    return replace(made, **changes)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a corpus."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def totals(manifest: Manifest) -> dict[str, tuple[int, int, int, int]]:
    """(read, dropped, held out, kept) of each source."""
    return {
        source.name: (
            source.documents_read,
            sum(source.dropped.values()),
            source.documents_heldout,
            source.documents_kept,
        )
        for source in manifest.sources
    }
