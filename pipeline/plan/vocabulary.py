"""How large the vocabulary is, before there is a corpus or after."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import DataMistake
from data_prep.files import digest, plain
from data_prep.manifest import MANIFEST_NAME, read_manifest_record
from pipeline.config import RunConfig
from pipeline.errors import Mistake
from pipeline.runs import read_state
from pipeline.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    size: int
    source: str
    """Where the size is from, for people."""


def find_vocabulary(config: RunConfig, workspace: Workspace, told: int | None) -> Vocabulary:
    """What the user says; else the corpus that the run trains on, if the config asks for its tokenizer still; else one
    built from the same config; else what the tokenizer's config promises. Lists no inputs and builds nothing. Raises
    Mistake if none of them knows, DataMistake for a file that is no tokenizer."""
    if told is not None:
        return Vocabulary(size=told, source="--vocab-size")
    state = read_state(workspace.run(config.name))
    if (
        state is not None
        and state.weight_shaping.get("data", {}).get("tokenizer") == plain(config.data.tokenizer)
        and (workspace.corpora / state.corpus / MANIFEST_NAME).is_file()
    ):
        manifest = read_manifest_record(workspace.corpora / state.corpus)
        return Vocabulary(size=manifest.vocab_size, source=f"corpus {state.corpus}")
    tokenizer = config.data.tokenizer
    if tokenizer.path is not None and Path(tokenizer.path).is_file():
        from data_prep.tokenizer_files import num_tokens

        data = Path(tokenizer.path).read_bytes()
        size = num_tokens(data, tokenizer.path, tokenizer.end_of_text, tokenizer.pattern)
        return Vocabulary(size=size, source=tokenizer.path)
    built = _built_corpora(config, workspace)  # equal but for the tokenizer's path, which their digest leaves out
    sizes = sorted(set(built.values()))
    if len(sizes) == 1:
        return Vocabulary(size=sizes[0], source=f"corpus {min(built)}")
    if tokenizer.train is not None:
        return Vocabulary(size=tokenizer.train.vocab_size, source="data.tokenizer.train.vocab_size")
    raise Mistake(
        f"data.tokenizer.path: {tokenizer.path} is not here to count its tokens; give the number with --vocab-size"
    )


def _built_corpora(config: RunConfig, workspace: Workspace) -> dict[str, int]:
    """Folder -> vocabulary size, of every corpus of this name and config."""
    folders = sorted(path.parent for path in workspace.corpora.glob(f"{config.name}-*/{MANIFEST_NAME}"))
    if not folders:
        return {}
    from data_prep.plan import ALGORITHM_VERSION, shaping  # brings fsspec

    wanted = digest({"algorithm": ALGORITHM_VERSION} | shaping(config.data))
    found = {}
    for folder in folders:
        with suppress(DataMistake):  # of another format, so of another version's config as well
            manifest = read_manifest_record(folder)
            if manifest.config_digest == wanted:
                found[folder.name] = manifest.vocab_size
    return found
