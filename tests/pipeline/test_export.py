"""`headrace export`: from a verified checkpoint to a folder, and never over anything that is not ours."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from data_prep.files import sha256_file, write_record
from pipeline.cli import main
from pipeline.config import RunConfig, load_config
from pipeline.data.order import order_of
from pipeline.errors import CorruptCheckpoint, Mistake
from pipeline.evaluate.report import read_report, write_report
from pipeline.evaluate.report import sealed as sealed_report
from pipeline.export import RECORD_NAME, export_model
from pipeline.model.decoder import build
from pipeline.promote.registry import promote
from pipeline.promote.stage import check_checkpoint
from pipeline.promote.verify import verify
from pipeline.sample import sample_text
from pipeline.status import status_record
from pipeline.train.checkpoint import RECORD_NAME as CHECKPOINT_NAME
from pipeline.train.checkpoint import WEIGHTS_NAME, Checkpoint, FileRecord, read_checkpoint, sealed, set_aside
from pipeline.workspace import Workspace, open_workspace
from tests.e2e.whole_runs import headrace
from tests.promote.reports import documents, scored
from tests.train.small_runs import config_tree, small_corpus, write_config

FILES = {
    "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def save_checkpoint(config: RunConfig, workspace: Workspace, step: int, *, seed: int | None = None) -> Checkpoint:
    """A checkpoint of untrained weights, as training would record it, with a report."""
    manifest = small_corpus(workspace.corpora / "small-1")
    model = build(config.model, manifest.vocab_size, manifest.end_of_text_id, seed=step if seed is None else seed)
    folder = workspace.run(config.name).checkpoint(step)
    folder.mkdir(parents=True)
    weights = folder / WEIGHTS_NAME
    save_file({name: tensor.detach() for name, tensor in model.named_parameters()}, weights)
    record = FileRecord(size_bytes=weights.stat().st_size, sha256=sha256_file(weights))
    checkpoint = sealed(
        Checkpoint(
            run=config.name, step=step, tokens=step * 512, position=order_of(manifest, (0.7, 0.3), 0).position(step * 8),
            config_digest=config.digest, world_size=1, zero_stage=1, precision="fp32", model=config.model,
            vocab_size=manifest.vocab_size, end_of_text_id=manifest.end_of_text_id,
            sequence_length=manifest.sequence_length, tokenizer_sha256=manifest.tokenizer_sha256, corpus="small-1",
            files={WEIGHTS_NAME: record},
        )
    )  # fmt: skip
    write_record(folder / CHECKPOINT_NAME, checkpoint)
    report = replace(scored(documents(), step=step), checkpoint_digest=checkpoint.digest, run=config.name)
    write_report(workspace.run(config.name).report(step, "heldout"), sealed_report(report))
    return checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run with the checkpoints 4 and 8, of which 4 is promoted."""
    folder = tmp_path_factory.mktemp("made")
    tree = config_tree(folder / "ws", steps=8, every_steps=4) | {"promote": {"model": "small"}}
    path = write_config(folder / "run.yaml", tree)
    config = load_config(path)
    workspace = open_workspace(config)
    for step in (4, 8):
        save_checkpoint(config, workspace, step)
    run = workspace.run("small")
    report = read_report(run.report(4, "heldout"))
    assert config.promote is not None
    promote(workspace.path, config.promote, report, run.checkpoint(4), check_checkpoint=check_checkpoint)
    return path


@pytest.fixture
def opened(made: Path, tmp_path: Path) -> tuple[RunConfig, Workspace]:
    """A copy that a test may harm."""
    workspace = shutil.copytree(made.parent / "ws", tmp_path / "ws")
    config = load_config(made, [f"workspace={workspace}"])
    return config, open_workspace(config)


Opened = tuple[RunConfig, Workspace]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_promoted_checkpoint_is_exported_and_transformers_loads_it(opened: Opened, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    out = tmp_path / "deep" / "model"
    made, replaced = export_model(*opened, out, None)
    assert (made.step, replaced) == (4, None)
    assert made.files.keys() == FILES
    assert contents(out).keys() == FILES | {RECORD_NAME}
    assert all(sha256_file(out / name) == record.sha256 for name, record in made.files.items())
    assert LlamaForCausalLM.from_pretrained(out).config.max_position_embeddings == 64
    assert AutoTokenizer.from_pretrained(out)("mill")["input_ids"][0] == 0
    card = (out / "README.md").read_text()
    assert all(words in card for words in ("small, step 4", made.checkpoint_digest, "heldout/bits_per_byte | 2.0"))
    assert [path.name for path in out.parent.iterdir()] == ["model"], "nothing else is left behind"


def test_a_step_is_exported_over_an_earlier_export(opened: Opened, tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.mkdir()  # an empty folder will do
    first, nothing = export_model(*opened, out, None)
    assert nothing is None
    before = contents(out)
    assert export_model(*opened, out, None) == (first, first)
    assert contents(out) == before, "the same checkpoint, the same bytes"
    last, replaced = export_model(*opened, out, 8)
    assert (last.step, replaced) == (8, first)
    assert contents(out)["model.safetensors"] != before["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir() if path.name != "ws"] == ["model"]


@pytest.mark.parametrize("what", ["file", "stranger", "edited", "no record", "another folder"])
def test_nothing_of_others_is_written_over(opened: Opened, tmp_path: Path, what: str) -> None:
    out = tmp_path / "model"
    if what in ("stranger", "edited", "no record"):
        export_model(*opened, out, None)
    if what == "file":
        out.write_text("mine")
    elif what == "stranger":
        (out / "notes").mkdir()
        (out / "notes/mine.txt").write_text("mine")
    elif what == "edited":
        (out / "README.md").write_text("my own words")
    elif what == "no record":
        (out / RECORD_NAME).unlink()
    else:
        out = opened[1].run("small").checkpoint(8)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(Mistake, match=str(out)) as error:
        export_model(*opened, out, None)
    assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_damaged_weights_are_named_and_nothing_is_written(opened: Opened, tmp_path: Path) -> None:
    weights = opened[1].run("small").checkpoint(4) / WEIGHTS_NAME
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CorruptCheckpoint, match=str(weights)):
        export_model(*opened, tmp_path / "model", None)
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_put_in_the_promoted_ones_place_is_refused(opened: Opened, tmp_path: Path) -> None:
    """Its own files match its own record, but it is not the one that the gate let through."""
    run = opened[1].run("small")
    shutil.rmtree(run.checkpoint(4))
    shutil.copytree(run.checkpoint(8), run.checkpoint(4))
    with pytest.raises(CorruptCheckpoint, match="promoted"):
        export_model(*opened, tmp_path / "model", None)
    with pytest.raises(CorruptCheckpoint, match="promoted"):
        sample_text(*opened, prompt="", max_tokens=1, temperature=0, seed=0, step=None)


def test_a_promoted_checkpoint_that_training_went_back_behind_is_found_where_it_was_set_aside(
    opened: Opened, tmp_path: Path
) -> None:
    config, workspace = opened
    folder = workspace.run("small").checkpoint(4)
    promoted = read_checkpoint(folder).digest
    set_aside(folder, "rewound-1")
    save_checkpoint(config, workspace, 4, seed=9)  # as training does when it comes there again
    made, _ = export_model(config, workspace, tmp_path / "model", None)
    assert made.checkpoint_digest == promoted
    sample_text(config, workspace, prompt="", max_tokens=1, temperature=0, seed=0, step=None)
    assert verify(workspace.path, "small", "production", check_checkpoint)[-1] == (
        f"checkpoint runs/small/checkpoints/{folder.name}.rewound-1: every file matches digest {promoted[:12]}"
    )
    assert Path(status_record(config, workspace)["alias"]["checkpoint"]).name == f"{folder.name}.rewound-1"


def test_of_two_checkpoints_of_one_step_each_has_its_own_proof(opened: Opened) -> None:
    config, workspace = opened
    assert config.promote is not None
    run = workspace.run("small")
    first = read_checkpoint(run.checkpoint(4)).digest[:12]
    set_aside(run.checkpoint(4), "rewound-1")
    for step, seed in ((4, 9), (8, 8)):
        shutil.rmtree(run.checkpoint(step), ignore_errors=True)
        save_checkpoint(config, workspace, step, seed=seed)
        better = replace(scored(documents(), worse_by=-step / 20, step=step), run="small")
        digest = read_checkpoint(run.checkpoint(step)).digest
        report = sealed_report(replace(better, checkpoint_digest=digest))
        entry = promote(workspace.path, config.promote, report, run.checkpoint(step), check_checkpoint=check_checkpoint)
        assert entry.kind == "promote"
    facts = [fact for fact in verify(workspace.path, "small", "production", check_checkpoint) if "checkpoint" in fact]
    assert [fact.split(":")[0].split("/")[-1] for fact in facts[-3:]] == [
        "step-00000004.rewound-1",
        "step-00000004",
        "step-00000008",
    ]
    shutil.rmtree(run.checkpoints / "step-00000004.rewound-1")  # as retention may one day
    facts = verify(workspace.path, "small", "production", check_checkpoint)
    gone = f"checkpoint runs/small/checkpoints/step-00000004 ({first}): another is there now; its proof is kept"
    assert gone in facts


def test_mistakes_say_what_to_do(opened: Opened, tmp_path: Path) -> None:
    config, workspace = opened
    with pytest.raises(Mistake, match="it has 4, 8"):
        export_model(config, workspace, tmp_path / "model", 5)
    (workspace.corpora / "small-1/tokenizer.json").write_text(json.dumps({}))
    with pytest.raises(Mistake, match="headrace prep"):
        export_model(config, workspace, tmp_path / "model", None)
    assert config.promote is not None
    unpromoted = replace(config, promote=replace(config.promote, alias="other"))
    with pytest.raises(Mistake, match="--step"):
        export_model(unpromoted, workspace, tmp_path / "model", None)


def test_a_full_disk_leaves_the_earlier_export(opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "model"
    export_model(*opened, out, None)
    before = contents(out)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.export.write_record", full)
    with pytest.raises(Mistake, match="No space left"):
        export_model(*opened, out, 8)
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir() if path.name != "ws"] == ["model"]


@pytest.mark.slow
def test_the_verb_takes_a_folder_and_overrides(made: Path, tmp_path: Path) -> None:
    record = headrace("export", made, tmp_path / "model", "train.seed=0", "--step", "8")
    assert (record["step"], set(record["files"])) == (8, FILES)
    assert (tmp_path / "model" / RECORD_NAME).is_file()
    assert "no such checkpoint" in headrace("export", made, tmp_path / "model", "--step", "9", code=2)["error"]


def test_the_verb_says_which_export_it_replaces(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["headrace", "export", str(made), str(tmp_path / "model"), *words])
        main()
        return capsys.readouterr().out

    assert "replaces" not in say()
    assert ", replaces step 4 of small (" in say("--step", "8")
    assert json.loads(say("--json"))["replaced"]["step"] == 8
