"""What a build is called: digests of the config and of the inputs, and the folders named by them.

The digest covers whatever shapes a byte of the corpus and nothing else: not the place of the inputs, not the grain of
the work, and not a source's weight unless a tokenizer is trained, whose sample it divides.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.config import EXECUTION, CorpusConfig, check_config, check_name
from data_prep.errors import DataMistake
from data_prep.files import digest
from data_prep.fingerprints import fingerprints, known_fingerprints
from data_prep.inputs import EXPANSION, InputFile, files_at, list_inputs
from data_prep.manifest import MANIFEST_NAME

ALGORITHM_VERSION = 4
"""Raised whenever the same config and inputs would give other bytes, so that old corpora are not taken for new ones."""

DROPPED_NAME = "dropped/dropped.json"
"""Counts what was dropped of a corpus by reason, written behind the files beside it."""

Fingerprint = Callable[[Path, Iterable[InputFile]], dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    config: CorpusConfig
    name: str
    inputs: tuple[tuple[InputFile, ...], ...]
    """The files of each source."""
    fingerprints: Mapping[str, str]
    """url -> digest of every input file."""
    config_digest: str
    tasks_digest: str
    """Of the evaluation tasks' data; empty if nothing is decontaminated."""
    tokenizer_digest: str
    """Of the tokenizer to load; empty if one is trained."""
    folder: Path
    """Of the corpus."""
    work: Path
    """Of what is between the stages; every build of this name shares it."""


@dataclass(frozen=True)
class Inputs:
    """The files that a corpus is made of, as they are listed now."""

    sources: tuple[tuple[InputFile, ...], ...]
    tasks: Mapping[str, tuple[InputFile, ...]]
    """Evaluation task -> its data."""

    @property
    def files(self) -> list[InputFile]:
        return [file for files in (*self.sources, *self.tasks.values()) for file in files]

    @property
    def text_bytes(self) -> int:
        """Of the sources, unpacked, about."""
        return sum(file.size_bytes * (EXPANSION if file.compression else 1) for files in self.sources for file in files)


def list_all(config: CorpusConfig) -> Inputs:
    """The files of all sources and evaluation tasks. Raises DataMistake, naming the config's key, if one has none."""
    return Inputs(tuple(list_inputs(source) for source in config.sources), task_inputs(config))


def make_plan(config: CorpusConfig, folder_root: Path, name: str, inputs: Inputs | None = None) -> Plan:
    """Lists the inputs, if not given, and hashes those not seen before."""
    plan = _plan(config, folder_root, name, inputs or list_all(config), fingerprints)
    assert plan is not None
    return plan


def try_plan(config: CorpusConfig, folder_root: Path, name: str) -> Plan | None:
    """The plan if every input has been hashed before, else None: fast whatever the size of the inputs."""
    return _plan(config, folder_root, name, list_all(config), known_fingerprints)


def find_corpus(config: CorpusConfig, folder_root: Path, name: str) -> Path | None:
    """The folder of the complete corpus that `prepare` would return at once, or None. Hashes no input anew."""
    check_name(name)
    check_config(config)
    plan = try_plan(config, folder_root.absolute(), name)
    return plan.folder if plan is not None and is_complete(plan.folder) else None


def is_complete(folder: Path) -> bool:
    return (folder / MANIFEST_NAME).is_file()


def _plan(config: CorpusConfig, folder_root: Path, name: str, inputs: Inputs, fingerprint: Fingerprint) -> Plan | None:
    tokenizer = _input_tokenizer(config)
    known = fingerprint(folder_root, inputs.files)
    if any(file.url not in known for file in inputs.files):
        return None
    contents = [[[file.relative, known[file.url]] for file in files] for files in inputs.sources]
    tasks = {task: [known[file.url] for file in files] for task, files in inputs.tasks.items()}
    tasks_digest = digest(tasks) if tasks else ""
    config_digest = digest({"algorithm": ALGORITHM_VERSION} | shaping(config))
    corpus = digest({"config": config_digest, "inputs": contents, "tasks": tasks_digest, "tokenizer": tokenizer})
    return Plan(
        config=config,
        name=name,
        inputs=inputs.sources,
        fingerprints=known,
        config_digest=config_digest,
        tasks_digest=tasks_digest,
        tokenizer_digest=tokenizer,
        folder=folder_root / f"{name}-{corpus[:16]}",
        work=folder_root / f".work-{name}",
    )


def task_inputs(config: CorpusConfig) -> dict[str, tuple[InputFile, ...]]:
    """The files of each evaluation task."""
    tasks = config.decontaminate.tasks if config.decontaminate is not None else {}
    return {name: files_at(path, f"decontaminate.tasks.{name}") for name, path in sorted(tasks.items())}


def shaping(config: CorpusConfig) -> dict[str, Any]:
    """The parts of the config that shape the corpus."""
    values = asdict(config)
    for key in EXECUTION:
        del values[key]
    del values["tokenizer"]["path"], values["tokenizer"]["pattern"]
    if config.decontaminate is not None:
        del values["decontaminate"]["tasks"]
    for source in values["sources"]:
        del source["path"], source["exclude"]
        if config.tokenizer.train is None:
            del source["weight"]
        if not source["languages"]:
            del source["language_confidence"]
        if source["pii"]["action"] == "off":
            del source["pii"]
    return values


def _input_tokenizer(config: CorpusConfig) -> str:
    """Digest of the tokenizer to load; empty if one is trained."""
    if not config.tokenizer.path:
        return ""
    return hashlib.sha256(read_tokenizer(config.tokenizer.path) + (config.tokenizer.pattern or "").encode()).hexdigest()


def read_tokenizer(path: str) -> bytes:
    """The bytes of a tokenizer's file at a path or URL."""
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            return bytes(file.read())
    except OSError as error:
        raise DataMistake(
            f"tokenizer.path: {path} cannot be read: {error.strerror or error}; check the path"
        ) from error
