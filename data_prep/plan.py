"""What a build is called: digests of the config and of the inputs, and the folders named by them.

The digest covers whatever shapes a byte of the corpus and nothing else: not the place of the inputs, not the grain of
the work, and not a source's weight unless a tokenizer is trained, whose sample it divides.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.config import CorpusConfig
from data_prep.errors import DataMistake
from data_prep.files import digest
from data_prep.fingerprints import fingerprints, known_fingerprints
from data_prep.inputs import InputFile, list_inputs

ALGORITHM_VERSION = 3
"""Raised whenever the same config and inputs would give other bytes, so that old corpora are not taken for new ones."""

Fingerprint = Callable[[Path, Iterable[InputFile]], dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    config: CorpusConfig
    name: str
    inputs: tuple[tuple[InputFile, ...], ...]
    """The files of each source."""
    config_digest: str
    folder: Path
    """Of the corpus."""
    scratch: Path
    """Of what is between the stages. Its name covers `unit_bytes` too, as other units are other files."""


def make_plan(config: CorpusConfig, folder_root: Path, name: str) -> Plan:
    """Lists the inputs and hashes those not seen before."""
    plan = _plan(config, folder_root, name, fingerprints)
    assert plan is not None
    return plan


def try_plan(config: CorpusConfig, folder_root: Path, name: str) -> Plan | None:
    """The plan if every input has been hashed before, else None: fast whatever the size of the inputs."""
    return _plan(config, folder_root, name, known_fingerprints)


def _plan(config: CorpusConfig, folder_root: Path, name: str, fingerprint: Fingerprint) -> Plan | None:
    inputs = tuple(list_inputs(source) for source in config.sources)
    tokenizer = _input_tokenizer(config)
    every = [file for files in inputs for file in files]
    known = fingerprint(folder_root, every)
    if any(file.url not in known for file in every):
        return None
    config_digest = digest({"algorithm": ALGORITHM_VERSION} | shaping(config))
    contents = [[[file.relative, known[file.url]] for file in files] for files in inputs]
    corpus = digest({"config": config_digest, "inputs": contents, "tokenizer": tokenizer})
    return Plan(
        config=config,
        name=name,
        inputs=inputs,
        config_digest=config_digest,
        folder=folder_root / f"{name}-{corpus[:16]}",
        scratch=folder_root / f".scratch-{name}-{digest([corpus, config.unit_bytes])[:16]}",
    )


def shaping(config: CorpusConfig) -> dict[str, Any]:
    """The parts of the config that shape the corpus."""
    values = asdict(config)
    del values["unit_bytes"], values["tokenizer"]["path"]
    for source in values["sources"]:
        del source["path"]
        if config.tokenizer.train is None:
            del source["weight"]
        if not source["languages"]:
            del source["language_confidence"]
        if source["pii"]["action"] == "off":
            del source["pii"]
    return values


def _input_tokenizer(config: CorpusConfig) -> str:
    """Digest of the tokenizer to load; empty if one is trained."""
    import hashlib

    return hashlib.sha256(read_tokenizer(config.tokenizer.path)).hexdigest() if config.tokenizer.path else ""


def read_tokenizer(path: str) -> bytes:
    """The bytes of a `tokenizer.json` at a path or URL."""
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            return bytes(file.read())
    except OSError as error:
        raise DataMistake(
            f"tokenizer.path: {path} cannot be read: {error.strerror or error}; check the path"
        ) from error
