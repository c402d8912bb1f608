"""What a run has pinned: the config it began with and the corpus it trains on, so that neither can change under it.

`runs/NAME/state.json` is written once, before the first step, with the resolved config beside it for people to read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.files import digest, plain, read_record, sha256_file, write_atomic, write_record
from data_prep.manifest import MANIFEST_NAME, Manifest, read_manifest
from pipeline.config import RunConfig, changed_keys, weight_shaping
from pipeline.errors import Mistake
from pipeline.workspace import RunFolder, Workspace


@dataclass(frozen=True, kw_only=True)
class RunState:
    run: str
    config_digest: str
    weight_shaping: dict[str, Any]
    """The part of the config that the digest covers."""
    corpus: str
    """The corpus's folder in the workspace."""
    manifest_digest: str


def read_state(run: RunFolder) -> RunState | None:
    """The run's pins, or None if it has not begun. Raises Mistake if the file is torn or was edited into none."""
    try:
        return read_record(RunState, run.state)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Mistake(
            f"{error}; put the one of then back, or remove it: the next start writes it anew, and its checkpoints "
            "still refuse another config or corpus"
        ) from error


def begin(config: RunConfig, workspace: Workspace, *, write: bool = True) -> tuple[Path, Manifest]:
    """Pins config and corpus at a run's first start, and checks them at each later one. Gives the corpus.

    Raises Mistake if the config has changed in a way that would change the weights, or if the corpus is not built.
    """
    run = workspace.run(config.name)
    state = read_state(run)
    if state is None:
        from data_prep.plan import find_corpus  # brings pyarrow, which `status` can do without

        corpus = find_corpus(config.data, workspace.corpora, config.name)
        if corpus is None:
            raise Mistake(
                f"data: the corpus of run {config.name} is not built yet; build it with: headrace prep CONFIG"
            )
        manifest = read_manifest(corpus)
        if write:
            pin(config, run, corpus, manifest)
        return corpus, manifest
    check_config(config, state)
    corpus = workspace.corpora / state.corpus
    try:
        manifest = read_manifest(corpus)
    except FileNotFoundError:
        raise Mistake(
            f"{corpus} is gone, and run {config.name} trains on it; build it again with: headrace prep CONFIG"
        ) from None
    if manifest.digest != state.manifest_digest:
        raise Mistake(f"{corpus} has changed since run {config.name} began; give this run another name")
    return corpus, manifest


def check_rebuild(config: RunConfig, workspace: Workspace) -> None:
    """Raises Mistake if the corpus that a run has begun with is gone, and today's inputs would give another one: that
    is built for hours, and the run does not go on."""
    state = read_state(workspace.run(config.name))
    if state is None or (workspace.corpora / state.corpus / MANIFEST_NAME).is_file():
        return
    from data_prep.plan import make_plan

    today = make_plan(config.data, workspace.corpora, config.name).folder
    if today.name != state.corpus:
        raise Mistake(
            f"{workspace.corpora / state.corpus} is gone, and run {config.name} trains on it; today's inputs and "
            f"config would give {today.name}: put them back as they were, or give this run another name"
        )


def check_config(config: RunConfig, state: RunState) -> None:
    """Raises Mistake if the config has changed since the run began in a way that would change the weights."""
    if state.config_digest != config.digest:
        # Through JSON, as the state went: tuples and lists are the same there.
        changes = changed_keys(state.weight_shaping, weight_shaping(config))
        raise Mistake(
            f"run {config.name} began with another config ({'; '.join(changes)}); "
            "put it back, or give this one another name"
        )


def pin(config: RunConfig, run: RunFolder, corpus: Path, manifest: Manifest) -> None:
    """The config for people first, the state that counts last."""
    import yaml

    write_atomic(run.config, yaml.safe_dump(_lists(plain(config)), sort_keys=False, allow_unicode=True).encode())
    write_record(
        run.state,
        RunState(
            run=config.name,
            config_digest=config.digest,
            weight_shaping=weight_shaping(config),
            corpus=corpus.name,
            manifest_digest=manifest.digest,
        ),
    )


def trained_tokenizer(workspace: Workspace, corpus: str, sha256: str) -> Path:
    """The `tokenizer.json` of a corpus. Raises Mistake if it is not the one with that digest, trained with."""
    path = workspace.corpora / corpus / "tokenizer.json"
    if not path.exists() or sha256_file(path) != sha256:
        raise Mistake(
            f"{path} is not the tokenizer that the checkpoint was trained with; "
            "build the corpus again: headrace prep CONFIG"
        )
    return path


def run_id(config: RunConfig, manifest_digest: str) -> str:
    """Names the run in wandb: 16 hex digits of what it is, so that a run resumed elsewhere is the same one there."""
    return digest({"name": config.name, "config": config.digest, "manifest": manifest_digest})[:16]


def _lists(value: Any) -> Any:
    """Tuples as lists, which is what YAML has."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return value
