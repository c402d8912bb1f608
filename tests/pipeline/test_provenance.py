"""`trace` and `where` of a run: bound to its pinned corpus and to what its journal says."""

from pathlib import Path

import pytest

from data_prep.files import write_record
from data_prep.manifest import read_manifest
from data_prep.small import write_small_corpus
from pipeline.config import RunConfig, load_config
from pipeline.errors import Mistake, PipelineError
from pipeline.monitor.journal import Journal
from pipeline.provenance import (
    StepTrace,
    order_of_run,
    steps_done,
    table,
    trace_step,
    trace_text,
    where_document,
    where_text,
    with_ending,
)
from pipeline.runs import pin
from pipeline.train.guard import GuardState
from pipeline.workspace import Workspace, open_workspace
from tests.e2e.whole_runs import headrace
from tests.train.small_runs import config_tree, sentences, small_corpus, write_config

Run = tuple[RunConfig, Workspace]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The config of a run of 20 steps over a ready corpus, of which 8 are in the journal."""
    config_path = write_config(tmp_path / "run.yaml", config_tree(tmp_path / "ws", steps=20, every_steps=5))
    config = load_config(config_path)
    workspace = open_workspace(config)
    corpus = workspace.corpora / "small-1"
    small_corpus(corpus)
    run = workspace.run(config.name)
    pin(config, run, corpus, read_manifest(corpus))
    _, _, order = order_of_run(config, workspace)
    with Journal(run.metrics) as journal:
        journal.append("start", run="small")
        for step in range(1, 9):
            journal.append("step", step=step, loss=1.0, batch_digest=order.batch_digest(range(8 * step - 8, 8 * step)))
    return config_path


@pytest.fixture
def run(path: Path) -> Run:
    config = load_config(path)
    return config, open_workspace(config)


def journal_of(run: Run) -> Path:
    return run[1].run("small").metrics


def test_a_step_and_its_documents_name_each_other(run: Run) -> None:
    found = trace_step(*run, 5)
    assert found.trained
    assert len({visit.position for visit in found.visits}) == 8
    for visit in found.visits[:5]:
        where = where_document(*run, visit.part.id, visit.part.source, None)
        assert where.until_step == 8
        assert visit in where.visits
        assert max(one.step for one in where.visits) <= 8


def test_steps_to_come_are_known_too(run: Run) -> None:
    later = trace_step(*run, 20)
    assert not later.trained
    visit = later.visits[0]
    assert visit not in where_document(*run, visit.part.id, None, None).visits
    assert visit in where_document(*run, visit.part.id, None, 20).visits
    assert where_document(*run, visit.part.id, None, 0).visits == ()


def test_a_journal_of_other_data_is_not_explained_away(run: Run) -> None:
    with Journal(journal_of(run)) as journal:
        journal.append("step", step=9, loss=1.0, batch_digest="another")
    with pytest.raises(PipelineError, match="step 9 saw the batch another"):
        trace_step(*run, 9)


def test_steps_done_follow_a_rewind(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert steps_done(path) == 0
    with Journal(path) as journal:
        for step in (1, 2, 3):
            journal.append("step", step=step, loss=1.0)
        journal.append("resume", step=2)
        assert steps_done(path) == 2
        journal.append("step", step=3, loss=1.0)
        for _ in range(30):  # much that is no step, behind the last one
            journal.append("notice", reason="x" * 50_000)
    assert steps_done(path) == 3


def test_held_out_documents_are_told_from_unknown_ones(run: Run) -> None:
    found = where_document(*run, "held-prose3", None, None)
    assert (found.sources, found.held_out, found.visits) == ((), ("prose",), ())
    assert "held out in prose" in where_text(found)
    with pytest.raises(Mistake, match="--id nobody: no such document in prose, code"):
        where_document(*run, "nobody", None, None)
    with pytest.raises(Mistake, match="has the sources prose, code"):
        where_document(*run, "prose1", "books", None)
    with pytest.raises(Mistake, match="no such document in code"):
        where_document(*run, "prose1", "code", None)


def test_an_id_without_its_files_ending_is_told_the_whole_one(tmp_path: Path) -> None:
    workspace = Workspace(path=tmp_path)
    corpus = workspace.corpora / "small-1"

    def files(folder: str, ending: str, count: int) -> list[tuple[str, str]]:
        return [(f"{folder}/{name}{ending}", words) for name, words in sentences(folder, count)]

    write_small_corpus(
        corpus,
        {"prose": files("prose", ".txt", 120), "code": files("code", ".py", 60)},
        heldout={"prose": files("held", ".txt", 9), "code": files("held", ".py", 5)},
        sequence_length=64,
        sequences_per_shard=64,
    )
    manifest, both = read_manifest(corpus), ["prose", "code"]
    assert with_ending(corpus, manifest, both, "prose/prose3") == ["prose/prose3.txt"]
    assert with_ending(corpus, manifest, both, "held/held1") == ["held/held1.py", "held/held1.txt"]
    assert with_ending(corpus, manifest, ["code"], "held/held1") == ["held/held1.py"]
    assert with_ending(corpus, manifest, ["code"], "prose/prose3") == []
    config_path = write_config(tmp_path / "run.yaml", config_tree(tmp_path, steps=20, every_steps=5))
    config = load_config(config_path)
    pin(config, workspace.run(config.name), corpus, manifest)
    with pytest.raises(Mistake, match=r"no such document in prose, code of small-1; there is code/code7\.py$"):
        where_document(config, workspace, "code/code7", None, None)


@pytest.mark.parametrize("step", [0, 21, -1])
def test_a_step_outside_the_run_is_a_mistake(run: Run, step: int) -> None:
    with pytest.raises(Mistake, match="the steps 1 to 20"):
        trace_step(*run, step)


def test_people_get_a_table(run: Run) -> None:
    lines = trace_text(trace_step(*run, 1)).splitlines()
    assert lines[0].startswith("step 1 of small: ")
    assert lines[1].split() == ["position", "epoch", "source", "shard", "row", "first", "tokens", "id"]
    assert len(lines[2].split()) == 8
    assert table(("n", "name", "id"), [("7", "a", "x"), ("10", "bcdef", "y")]) == [
        " n  name   id",
        " 7  a      x",
        "10  bcdef  y",
    ]


@pytest.mark.slow
def test_the_verbs_speak_json(path: Path) -> None:
    found = headrace("trace", path, "--step", "3")
    first = found["documents"][0]
    assert found["trained"]
    assert first["step"] == 3
    where = headrace("where", path, "--id", first["id"], "--source", first["source"])
    assert first in where["visits"]
    assert headrace("where", path, "--id", "nobody", code=2)["exit_code"] == 2


def test_what_the_guard_left_out_is_seen_by_no_step_and_later_steps_see_what_came_after(run: Run) -> None:
    before = [trace_step(*run, step) for step in range(1, 21)]
    folder = run[1].run("small")
    _, _, order = order_of_run(*run)
    write_record(folder.guard, GuardState(skipped=order.skipping(11 * 8, 2 * 8).skipped))

    def documents(trace: StepTrace) -> list[object]:
        return [visit.part for visit in trace.visits]

    after = [trace_step(*run, step) for step in range(1, 19)]
    assert [one.batch_digest for one in after] == [one.batch_digest for one in before[:11] + before[13:]]
    assert [documents(one) for one in after] == [documents(one) for one in before[:11] + before[13:]]
    assert after[11].visits[0].step == 12
    for visit in before[11].visits:
        seen = where_document(*run, visit.part.id, visit.part.source, 18)
        assert (visit.epoch, visit.part) not in [(one.epoch, one.part) for one in seen.visits]
        assert all(documents(after[one.step - 1]).count(one.part) for one in seen.visits)
