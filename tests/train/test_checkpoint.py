"""A checkpoint is what its record says, file by file, or it is refused by name."""

import errno
import json
import random
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cluster.signals import STOP_FILE_VARIABLE
from data_prep.files import write_record
from data_prep.manifest import read_manifest
from pipeline.config import load_config
from pipeline.errors import CorruptCheckpoint, PipelineError
from pipeline.model.decoder import build
from pipeline.monitor.journal import read_journal
from pipeline.train.checkpoint import (
    RECORD_NAME,
    WEIGHTS_NAME,
    FileRecord,
    dealt,
    sealed,
    steps_saved,
    verify_checkpoint,
)
from pipeline.train.newest import Newest, newest_good
from pipeline.train.snapshot import write_tensors
from pipeline.workspace import RunFolder
from tests.disk import record_disk
from tests.train.small_runs import (
    ALONE,
    RECORD,
    config_tree,
    run_ranks,
    small_corpus,
    start_ranks,
    start_script,
    write_config,
)

TROUBLED = Path(__file__).with_name("troubled_small.py")
VERIFYING = Path(__file__).with_name("verifying_ranks.py")
RECORDED = Path(__file__).with_name("recorded_small.py")
Troubled = Callable[..., tuple[Path, int, str]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a real run of four steps, one rank."""
    folder = tmp_path_factory.mktemp("run")
    small_corpus(folder / "corpus")
    config = write_config(folder / "run.yaml", config_tree(folder / "ws", steps=4, every_steps=2, ranks=1))
    run_ranks(config, folder / "corpus", ranks=1)
    return folder / "ws/runs/small/checkpoints"


@pytest.fixture
def checkpoints(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


@pytest.mark.slow
def test_sound_checkpoints_verify(checkpoints: Path) -> None:
    assert steps_saved(checkpoints) == [0, 2, 4]
    for step in (0, 2, 4):
        assert verify_checkpoint(checkpoints / f"step-{step:08d}").step == step


@pytest.mark.slow
def test_step_0_has_the_first_weights_of_the_config(saved: Path) -> None:
    """A start that finds no checkpoint draws them; one that finds some begins from zeros."""
    config = load_config(saved.parents[3] / "run.yaml")
    manifest = read_manifest(saved.parents[3] / "corpus")
    model = build(config.model, manifest.vocab_size, manifest.end_of_text_id, config.train.seed)
    weights = load_file(saved / "step-00000000" / WEIGHTS_NAME)
    assert weights.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(weights[name], one) for name, one in model.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_any_damaged_file_is_named_and_the_one_before_is_used(checkpoints: Path, damage: str) -> None:
    newest = checkpoints / "step-00000004"
    names = sorted(verify_checkpoint(newest).files)
    assert len(names) >= 3
    for name in [*names, RECORD_NAME]:
        copy = checkpoints.parent / f"copy-{damage}-{name.replace('/', '-')}/checkpoints"
        shutil.copytree(checkpoints, copy)
        harm(copy / newest.name / name, damage)
        if (copy / newest.name / RECORD_NAME).exists():
            with pytest.raises(CorruptCheckpoint, match=Path(name).name):
                verify_checkpoint(copy / newest.name)
        found = newest_in(copy)
        assert found.step == 2, name
        assert [Path(name).name in problem for problem in found.damaged] == [True], "loudly"
        assert not (copy / newest.name).exists(), "set aside, so that step 4 can be saved anew"


def newest_in(checkpoints: Path) -> Newest:
    return newest_good(RunFolder(path=checkpoints.parent), None, ALONE)


def harm(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
    elif how == "truncate":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[random.Random(path.name).randrange(len(data))] ^= 1
        path.write_bytes(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of two ranks, with every kind of file that a run's have."""
    folder = tmp_path_factory.mktemp("written")
    for step in (2, 4):
        path = folder / f"step-{step:08d}"
        path.mkdir()
        tensors = {"a": torch.arange(float(step)), "b": torch.ones(3)}
        files = {name: write_tensors(path / name, tensors) for name in KINDS}
        write_record(path / RECORD_NAME, sealed(replace(RECORD, step=step, files=files)))
    return folder


KINDS = (WEIGHTS_NAME, *(f"{kind}-{rank:05d}.safetensors" for kind in ("state", "rng") for rank in (0, 1)))


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from([*KINDS, RECORD_NAME]),
    damage=st.sampled_from(["flip", "truncate", "append", "delete"]),
    at=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
@example(name=RECORD_NAME, damage="delete", at=0, bit=0)
@example(name=RECORD_NAME, damage="truncate", at=0, bit=0)
@example(name=RECORD_NAME, damage="truncate", at=0.9999999, bit=0)
def test_whatever_byte_of_whatever_file_is_damaged_the_one_before_is_used_and_it_is_said(
    written: Path, tmp_path_factory: pytest.TempPathFactory, name: str, damage: str, at: float, bit: int
) -> None:
    folder = Path(shutil.copytree(written, tmp_path_factory.mktemp("fuzz") / "checkpoints"))
    newest = folder / "step-00000004"
    before, data = verify_checkpoint(newest), bytearray((newest / name).read_bytes())
    place = int(at * len(data))
    if damage == "flip":
        data[place] ^= 1 << bit
    (newest / name).write_bytes({"truncate": data[:place], "append": data + b" "}.get(damage, data))
    if damage == "delete":
        (newest / name).unlink()
    found = newest_in(folder)
    if found.step == 4:  # JSON may be written in several ways: 1e-5 is 1E-5, and its last newline may be gone
        assert name == RECORD_NAME
        assert damage in ("flip", "append") or data[place:] == b"\n"
        assert verify_checkpoint(newest) == before
        return
    assert found.step == 2
    assert len(found.damaged) == 1
    assert str(newest / name) in found.damaged[0]
    assert "use another checkpoint" in found.damaged[0]
    assert not newest.exists(), "set aside, so that step 4 can be saved anew"


@pytest.mark.parametrize("name", [RECORD_NAME, WEIGHTS_NAME])
def test_a_file_that_cannot_be_read_just_now_condemns_no_checkpoint(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As when a file system's server was started again: the next look finds all as it was."""
    folder = Path(shutil.copytree(written, tmp_path / "checkpoints"))
    stale = folder / "step-00000004" / name
    open_file = Path.open

    def opened(path: Path, *how: Any, **more: Any) -> Any:
        if path == stale:
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return open_file(path, *how, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        with pytest.raises(PipelineError, match=f"{name} cannot be read .Stale file handle.; run it again") as raised:
            newest_in(folder)
    assert not isinstance(raised.value, CorruptCheckpoint)
    assert newest_in(folder).step == 4


def test_what_is_set_aside_is_so_on_disk(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(written, tmp_path / "checkpoints"))
    harm(folder / "step-00000004" / WEIGHTS_NAME, "flip")
    done = record_disk(monkeypatch)
    assert newest_in(folder).step == 2
    assert done == [("rename", "step-00000004.corrupt"), ("sync", "checkpoints")]


@pytest.mark.slow
def test_ranks_verify_a_checkpoint_together_and_agree(written: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(written / "step-00000004", tmp_path / "step-00000004"))
    process = start_script(VERIFYING, path, tmp_path, ranks=2)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    zero, one = ([line.split(" ") for line in (tmp_path / f"rank-{rank}").read_text().splitlines()] for rank in (0, 1))
    assert sorted(zero[0][:-1] + one[0][:-1]) == sorted(KINDS), "each file once"
    assert abs(len(zero[0]) - len(one[0])) <= 1
    shared = one[0][:-1]

    def ends(turn: int) -> set[str]:
        return {" ".join(word for word in rank[turn] if word not in KINDS) for rank in (zero, one)}

    assert ends(0) == {"good"}
    assert ends(1) == {"StoppedOnNotice: told"}, "on both, though only one was told"
    [alone] = ends(2)
    assert alone.startswith(f"PipelineError: {path / shared[0]} does not match its recorded sha256")
    assert "says rank 1, but rank 0 finds it whole" in alone
    assert set(shared) <= set(zero[2]), "rank 0 has looked"
    [damaged] = ends(3)
    assert damaged.startswith("CorruptCheckpoint: ")
    assert "does not match its recorded sha256; use another checkpoint" in damaged


@given(sizes=st.lists(st.integers(0, 10**12), max_size=40), num_shares=st.integers(1, 9))
def test_files_are_dealt_each_once_and_no_share_is_much_larger_than_it_must_be(
    sizes: list[int], num_shares: int
) -> None:
    files = {f"{at:02d}": FileRecord(size_bytes=size, sha256="") for at, size in enumerate(sizes)}
    shares = dealt(files, num_shares)
    assert len(shares) == num_shares
    assert sorted(name for share in shares for name in share) == sorted(files)
    assert all(files[name] is file for share in shares for name, file in share.items())
    largest = max(sum(file.size_bytes for file in share.values()) for share in shares)
    assert num_shares * largest <= sum(sizes) + num_shares * max(sizes, default=0)
    assert shares == dealt(dict(reversed(files.items())), num_shares), "the same on all ranks"


@pytest.mark.slow
def test_a_save_that_cannot_be_written_is_one_line_and_harms_nothing(tmp_path: Path) -> None:
    """As on a full disk: the second start may write no file over 100 kB, which a checkpoint needs."""
    small_corpus(tmp_path / "corpus")
    tree = config_tree(tmp_path / "ws", steps=4, every_steps=2, ranks=1)
    config = write_config(tmp_path / "run.yaml", tree)
    run_ranks(config, tmp_path / "corpus", ranks=1)
    checkpoints = tmp_path / "ws/runs/small/checkpoints"
    shutil.rmtree(checkpoints / "step-00000004")

    process = start_ranks(config, tmp_path / "corpus", ranks=1, file_bytes=10**5)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "the checkpoint of step 4 could not be written" in output
    assert steps_saved(checkpoints) == [0, 2]
    verify_checkpoint(checkpoints / "step-00000002")
    run_ranks(config, tmp_path / "corpus", ranks=1)
    assert steps_saved(checkpoints) == [0, 2, 4]


@pytest.mark.slow
def test_a_power_cut_leaves_no_checkpoint_without_the_steps_that_led_to_it(tmp_path: Path) -> None:
    small_corpus(tmp_path / "corpus")
    tree = config_tree(tmp_path / "ws", steps=4, every_steps=2, ranks=1)
    tree["train"]["checkpoint"]["asynchronous"] = False  # type: ignore[index]
    config, left = write_config(tmp_path / "run.yaml", tree), tmp_path / "disk.json"
    process = start_script(RECORDED, left, config, tmp_path / "corpus", ranks=1)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    done = [(what, name) for what, name in json.loads(left.read_text())]
    commits = [at for at, one in enumerate(done) if one in [("rename", f"step-{step:08d}") for step in (0, 2, 4)]]
    assert len(commits) == 3
    for at in commits:
        assert [what for what, name in done[:at] if name == "metrics.jsonl"][-1] == "sync"
        assert done[at + 1] == ("sync", "checkpoints")


@pytest.mark.slow
def test_no_checkpoint_and_no_good_one_are_told_apart(checkpoints: Path, tmp_path: Path) -> None:
    assert newest_in(tmp_path / "nothing/checkpoints").step is None
    for folder in checkpoints.iterdir():
        harm(folder / "model.safetensors", "flip")
    found = newest_in(checkpoints)
    assert found.step is None
    assert len(found.damaged) == 3


@pytest.fixture
def troubled(tmp_path: Path) -> Troubled:
    """Starts a run of eight steps, saved at every second one, that meets trouble at the save of step 6."""
    small_corpus(tmp_path / "corpus")

    def run(trouble: str, ranks: int = 1) -> tuple[Path, int, str]:
        tree = config_tree(tmp_path / "ws", steps=8, every_steps=2, ranks=ranks)
        config = write_config(tmp_path / "run.yaml", tree)
        process = start_script(TROUBLED, trouble, config, tmp_path / "corpus", ranks=ranks)
        output, _ = process.communicate(timeout=120)
        return tmp_path / "ws/runs/small/checkpoints", process.returncode, output

    return run


@pytest.mark.slow
def test_killed_while_it_writes_beside_training_the_one_before_is_used(troubled: Troubled, tmp_path: Path) -> None:
    checkpoints, code, output = troubled("kill")
    assert code == -signal.SIGKILL, output
    assert steps_saved(checkpoints) == [0, 2, 4]
    assert (checkpoints / ".step-00000006.saving/state-00000.safetensors").stat().st_size > 0, "killed inside the write"
    assert newest_in(checkpoints).step == 4
    run_ranks(tmp_path / "run.yaml", tmp_path / "corpus", "train.checkpoint.every_steps=8", ranks=1)
    assert steps_saved(checkpoints) == [0, 2, 4, 8]
    assert not list(checkpoints.glob(".*")), "the torn save is swept away"


@pytest.mark.slow
def test_a_notice_to_stop_waits_for_the_write_beside_training(troubled: Troubled) -> None:
    checkpoints, code, output = troubled("term")
    assert code == 75, output
    saved = steps_saved(checkpoints)
    assert saved == [0, 2, 4, 6, 7], "and where training stood when it heard the notice"
    for step in saved:
        verify_checkpoint(checkpoints / f"step-{step:08d}")


@pytest.mark.slow
def test_a_rollback_waits_for_the_write_beside_training_and_sets_aside_what_it_commits(troubled: Troubled) -> None:
    """Step 7 is bad while step 6, which may be what harmed it, is being written."""
    checkpoints, code, output = troubled("spike")
    assert code == 0, output
    lines = read_journal(checkpoints.with_name("metrics.jsonl"))
    told = [(line["kind"], line.get("step")) for line in lines if line["kind"] in ("checkpoint", "guard", "resume")]
    saved = [("checkpoint", step) for step in (0, 2, 4, 6)]
    assert told == [*saved, ("guard", 7), ("resume", 4), saved[-1], ("guard", 7), ("checkpoint", 8)]
    assert steps_saved(checkpoints) == [0, 2, 4, 6, 8]
    assert verify_checkpoint(checkpoints / "step-00000006.rewound-1").step == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("fail", "rank 1: [Errno 28] No space left on device); the disk is full: free some space"),
        ("bug", "rank 1: KeyError: 'F64'); those before it are intact"),
    ],
)
def test_a_write_that_fails_beside_training_is_one_clear_error(
    troubled: Troubled, tmp_path: Path, trouble: str, said: str
) -> None:
    """On one of two ranks; whichever speaks first knows what went wrong on the other."""
    checkpoints, code, output = troubled(trouble, 2)
    assert code != 0
    assert f"the checkpoint of step 6 could not be written ({said}" in output
    assert steps_saved(checkpoints) == [0, 2, 4]
    assert not list(checkpoints.glob(".*")), "what was written is swept away: a full disk needs the room"
    run_ranks(tmp_path / "run.yaml", tmp_path / "corpus")
    assert steps_saved(checkpoints) == [0, 2, 4, 6, 8]


@pytest.mark.slow
def test_ranks_that_hear_a_step_apart_of_a_write_that_failed_raise_at_the_same_step(
    troubled: Troubled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is left in a collective that the others do not come to. As under a launcher of ours the one that ends last is
    not killed by the SIGTERM that comes behind the first, before it has said why it ends."""
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(tmp_path / "attempt/stop"))
    _, code, output = troubled("apart", 2)
    assert code != 0
    assert len(re.findall(r"^pipeline\.errors\.PipelineError: .* step 6 could not be written", output, re.M)) == 2, (
        output
    )


@pytest.mark.slow
def test_beside_training_or_not_the_same_bytes_are_written(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved.parents[3] / "corpus", tmp_path / "corpus")
    config = write_config(tmp_path / "run.yaml", config_tree(tmp_path / "ws", steps=4, every_steps=2, ranks=1))
    run_ranks(config, tmp_path / "corpus", "train.checkpoint.asynchronous=false", ranks=1)
    for step in (2, 4):
        ours, theirs = (
            verify_checkpoint(path / f"step-{step:08d}") for path in (saved, tmp_path / "ws/runs/small/checkpoints")
        )
        assert ours.files == theirs.files
        assert ours.digest == theirs.digest
