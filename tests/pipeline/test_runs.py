"""What a run has pinned, once what it pins is gone."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.files import write_record
from data_prep.plan import make_plan
from pipeline.config import load_config
from pipeline.errors import Mistake
from pipeline.runs import RunState, check_rebuild
from pipeline.workspace import open_workspace
from tests.e2e import whole_runs
from tests.train.small_runs import small_corpus


def test_a_corpus_that_is_gone_is_built_again_only_if_it_would_be_the_same(tmp_path: Path) -> None:
    """The scheduler would build another one, and look for the one that the run has pinned, without end."""
    whole_runs.text(tmp_path / "text")
    config = load_config(whole_runs.config(tmp_path))
    workspace = open_workspace(config)
    check_rebuild(config, workspace)
    corpus = make_plan(config.data, workspace.corpora, config.name).folder
    pins = RunState(run="whole", config_digest="", weight_shaping={}, corpus=corpus.name, manifest_digest="")
    write_record(workspace.run(config.name).state, pins)
    check_rebuild(config, workspace)

    with (tmp_path / "text/prose.jsonl").open("a") as file:
        file.write('{"id": "late", "text": "one more"}\n')
    with pytest.raises(Mistake, match=rf"{corpus} is gone, and run whole trains on it; today.* give this run another"):
        check_rebuild(config, workspace)
    check_rebuild(replace(config, name="another"), workspace)
    small_corpus(corpus)
    check_rebuild(config, workspace)
