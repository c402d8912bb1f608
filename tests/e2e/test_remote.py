"""Everything of a run on another machine: corpus and checkpoints come from the remote, nothing is done twice."""

from pathlib import Path

import pytest

from pipeline.monitor.journal import read_journal
from pipeline.remote import RemoteFolder
from pipeline.train.checkpoint import steps_saved, verify_checkpoint
from pipeline.train.stored import remote_steps
from pipeline.workspace import RunFolder
from tests.e2e.whole_runs import STEPS, config, headrace, text
from tests.stores import tree


@pytest.mark.slow
def test_a_run_goes_on_where_nothing_of_it_is(tmp_path: Path) -> None:
    text(tmp_path / "text")
    there = RemoteFolder(f"file://{tmp_path}/remote/runs/whole")
    words = [
        *(config(tmp_path), f"remote=file://{tmp_path}/remote", "evaluate.suites=[]", "promote=null"),
        *("cluster.processes_per_node=1", "train.checkpoint.every_steps=2"),
        *("train.checkpoint.keep_last=2", "train.checkpoint.keep_local=1"),
    ]
    first = RunFolder(path=tmp_path / "workspace/runs/whole")
    headrace("run", *words)
    uploaded = [line["step"] for line in read_journal(first.metrics) if line["kind"] == "upload"]
    assert uploaded[-1] == STEPS, "before it, a newer one may have taken the place of one that waited"
    assert remote_steps(there) == uploaded[-2:][::-1]
    only_here = [] if STEPS - 2 in uploaded else [STEPS - 2]
    assert steps_saved(first.checkpoints) == [*only_here, STEPS], "of two that are kept, one here if the other is there"
    final = verify_checkpoint(first.checkpoint(STEPS))

    (tmp_path / "text").rename(tmp_path / "text is not there")
    headrace("run", *words, f"workspace={tmp_path}/second")
    second = RunFolder(path=tmp_path / "second/runs/whole")
    assert verify_checkpoint(second.checkpoint(STEPS)) == final
    kinds = [line["kind"] for line in read_journal(second.metrics)]
    assert kinds.count("step") == STEPS, "as the journal was stored: none was taken again"
    assert kinds[-2:] == ["resume", "end"]
    [corpus] = (tmp_path / "remote/corpora").iterdir()
    assert tree(tmp_path / "workspace/corpora" / corpus.name) == tree(tmp_path / "second/corpora" / corpus.name)

    (tmp_path / "text is not there").rename(tmp_path / "text")
    there.remove("state.json")  # a run that has not begun has pinned nothing
    made = headrace("prep", *words, f"workspace={tmp_path}/third")
    assert Path(made["corpus"]).name == corpus.name
    assert not (tmp_path / "third/corpora/.work-whole").exists(), "found by the digest of its inputs, not built"
