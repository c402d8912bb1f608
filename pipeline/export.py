"""A checkpoint as a folder that transformers and vLLM load.

    checkpoint ──verify──> .OUT.exporting-*/ ──rename──> OUT/

`headrace_export.json`, written last, lists every file with its sha256 and the checkpoint that it came from. By it we
know our own earlier export, the only thing that may be written over.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.files import read_record, sha256_file, sync_folder, write_atomic, write_record
from pipeline.config import RunConfig
from pipeline.errors import Mistake, PipelineError
from pipeline.evaluate.report import EvalReport, Score, read_report
from pipeline.evaluate.stage import pick_step
from pipeline.model import export as llama
from pipeline.promote.place import folder_of, verified_weights
from pipeline.promote.registry import champion_report, read_alias
from pipeline.promote.stage import promotion_of
from pipeline.runs import trained_tokenizer
from pipeline.train.checkpoint import WEIGHTS_NAME, Checkpoint, FileRecord
from pipeline.workspace import Workspace

RECORD_NAME = "headrace_export.json"
CARD_NAME = "README.md"


@dataclass(frozen=True, kw_only=True)
class Export:
    run: str
    step: int
    checkpoint_digest: str
    files: dict[str, FileRecord]
    """Every file but the record itself."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What to export: a checkpoint, and the report on it if there is one."""

    path: Path
    digest: str | None
    """What the alias says that the checkpoint is; None if it was named by its step."""
    report: EvalReport | None


def export_model(config: RunConfig, workspace: Workspace, out: Path, step: int | None) -> tuple[Export, Export | None]:
    """Writes the promoted checkpoint, or a step's, to `out`; gives the export, and the earlier one that it replaced.

    Raises Mistake, also if `out` holds anything else than our own export, and CorruptCheckpoint."""
    out = out.resolve()
    choice = choose(config, workspace, step)
    replaced = check_target(out)
    checkpoint = verified_weights(choice.path, choice.digest)
    tokenizer = trained_tokenizer(workspace, checkpoint.corpus, checkpoint.tokenizer_sha256)
    report = choice.report if choice.report and choice.report.checkpoint_digest == checkpoint.digest else None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.exporting-", dir=out.parent))
        try:
            staging.chmod(0o755)
            write_files(staging, choice.path, checkpoint, json.loads(tokenizer.read_bytes()), report)
            export = sealed_folder(staging, checkpoint)
            put_in_place(staging, out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise Mistake(f"{out} cannot be written: {error.strerror or error}; choose another folder") from error
    return export, replaced


def choose(config: RunConfig, workspace: Workspace, step: int | None) -> Choice:
    """The step asked for, else what the alias points to. Raises Mistake if nothing is promoted."""
    if step is not None:
        run = workspace.run(config.name)
        step = pick_step(config, workspace, step)
        return Choice(path=run.checkpoint(step), digest=None, report=report_at(run.report(step, "heldout")))
    target = promotion_of(config)
    alias = read_alias(workspace.path, target.model, target.alias)
    if alias is None:
        raise Mistake(f"nothing is promoted to {target.model}@{target.alias} yet; choose a checkpoint with --step")
    return Choice(
        path=folder_of(workspace.path, alias.checkpoint),
        digest=alias.checkpoint.digest,
        report=champion_report(workspace.path, target.model, target.alias),
    )


def report_at(path: Path) -> EvalReport | None:
    try:
        return read_report(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise PipelineError(str(error)) from error


def check_target(out: Path) -> Export | None:
    """The export of ours that writing to `out` would replace. Raises Mistake if it would remove anything else, or one
    that is not as we wrote it."""
    if not os.path.lexists(out):
        return None
    if not out.is_dir():
        raise Mistake(f"{out} is a file; give a folder that is new, empty or an earlier export")
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir() or path.is_symlink()}
    if not found:
        return None
    try:
        record = read_record(Export, out / RECORD_NAME)
    except (OSError, ValueError):
        raise Mistake(f"{out} is not empty and no export of ours; give a folder that is new or empty") from None
    strangers = sorted(found - record.files.keys() - {RECORD_NAME})
    changed = sorted(name for name in found & record.files.keys() if not _as_written(out / name, record.files[name]))
    for names, what in ((strangers, "which no export wrote"), (changed, "which was changed since it was exported")):
        if names:
            raise Mistake(f"{out / names[0]}, {what}, would be lost; move it away or give another folder")
    return record


def _as_written(path: Path, expected: FileRecord) -> bool:
    """The weights by their size only: nobody edits them by hand, and reading them may take minutes."""
    if path.stat().st_size != expected.size_bytes:
        return False
    return path.name == WEIGHTS_NAME or sha256_file(path) == expected.sha256


def write_files(
    folder: Path, path: Path, checkpoint: Checkpoint, tokenizer: Mapping[str, Any], report: EvalReport | None
) -> None:
    """All of an export but its record."""
    model, end_of_text_id, length = checkpoint.model, checkpoint.end_of_text_id, checkpoint.sequence_length
    header = llama.write_weights(path / WEIGHTS_NAME, folder / "model.safetensors", model)
    token = llama.token_of(tokenizer, end_of_text_id)
    for name, content in (
        ("config.json", llama.llama_config(model, header, end_of_text_id, length)),
        ("generation_config.json", llama.generation_config(end_of_text_id)),
        ("tokenizer.json", llama.opening_tokenizer(tokenizer, end_of_text_id)),
        ("tokenizer_config.json", llama.tokenizer_config(token, length)),
    ):
        write_atomic(folder / name, json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")
    card = model_card(checkpoint, llama.num_parameters(header), token, report)
    write_atomic(folder / CARD_NAME, card.encode())


def sealed_folder(folder: Path, checkpoint: Checkpoint) -> Export:
    """Writes the record of all that the folder holds."""
    files = {
        path.name: FileRecord(size_bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(folder.iterdir())
    }
    export = Export(run=checkpoint.run, step=checkpoint.step, checkpoint_digest=checkpoint.digest, files=files)
    write_record(folder / RECORD_NAME, export)
    return export


def put_in_place(staging: Path, out: Path) -> None:
    """Renames the finished folder to `out`; an earlier export steps aside first and is removed after."""
    aside = staging.with_name(f"{staging.name}.before")
    if out.exists():
        out.rename(aside)
    try:
        staging.rename(out)
    except OSError:
        if aside.exists():
            aside.rename(out)
        raise
    sync_folder(out.parent)
    shutil.rmtree(aside, ignore_errors=True)


def model_card(checkpoint: Checkpoint, num_parameters: int, token: str, report: EvalReport | None) -> str:
    """README.md: what this is, where it came from, how good it is and how to use it."""
    model = checkpoint.model
    scores = [score_row(name, score) for name, score in report.scores.items()] if report else []
    table = ["| score | value | standard error |", "| --- | --- | --- |", *scores] if scores else ["Not evaluated."]
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags: [headrace]",
            "---",
            f"# {checkpoint.run}, step {checkpoint.step}",
            "",
            f"A decoder-only language model in {'Qwen3' if model.qk_norm else 'Llama'}'s layout: {num_parameters:,} "
            f"parameters, {model.layers} layers, "
            f"width {model.width}, a vocabulary of {checkpoint.vocab_size:,}. A base model: it continues text.",
            "",
            "| made by headrace | |",
            "| --- | --- |",
            f"| run | {checkpoint.run} |",
            f"| step | {checkpoint.step} |",
            f"| tokens trained on | {checkpoint.tokens:,} |",
            f"| sequence length | {checkpoint.sequence_length:,} |",
            f"| corpus | {checkpoint.corpus} |",
            f"| checkpoint | `{checkpoint.digest}` |",
            f"| config | `{checkpoint.config_digest}` |",
            "",
            "## Scores",
            "",
            *table,
            "",
            "## Use",
            "",
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".")',
            'text = model.generate(**tokenizer("Once", return_tensors="pt"), max_new_tokens=50)',
            "print(tokenizer.decode(text[0], skip_special_tokens=True))",
            "```",
            "",
            f"A text begins and ends with `{token}`; the tokenizer puts it before each text. Text that spells it is "
            "encoded as ordinary text. In training no document saw another, and no context was longer than the "
            "sequence length.",
            "",
        ]
    )


def score_row(name: str, score: Score) -> str:
    return f"| {name} | {_figure(score.value)} | {_figure(score.standard_error)} |"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
