"""Whether a corpus on disk still is what its manifest says, byte for byte."""

from collections.abc import Iterator
from pathlib import Path

from data_prep.files import sha256_file
from data_prep.manifest import cells_name, read_manifest, sidecar_name


def verify(folder: Path) -> tuple[str, ...]:
    """Checks every file that the manifest covers by its sha256. Returns one line a problem; none means sound.

    Raises FileNotFoundError or ValueError if the manifest itself or its table is missing or damaged.
    """
    return tuple(problem for path, expected in covered(folder) if (problem := _problem(path, expected)) is not None)


def covered(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file but the table that the manifest covers, and its sha256. Raises as `verify`."""
    manifest = read_manifest(folder)
    yield folder / "tokenizer.json", manifest.tokenizer_sha256
    for source in manifest.sources:
        yield folder / "shards" / cells_name(source.name), source.cells_sha256
    for shard in manifest.shards:
        yield folder / "shards" / shard.name, shard.sha256
        yield folder / "shards" / sidecar_name(shard.name), shard.docs_sha256
    for heldout in manifest.heldout:
        yield folder / "heldout" / heldout.name, heldout.sha256


def _problem(path: Path, expected: str) -> str | None:
    try:
        found = sha256_file(path)
    except OSError as error:
        return f"{path}: {error.strerror or error}; run prep again"
    if found != expected:
        return (
            f"{path}: sha256 is {found[:16]}…, not {expected[:16]}… as recorded; delete the corpus and run prep again"
        )
    return None
