"""The plan of a run: its arithmetic, its verdicts, its table, and the configs that come with headrace."""

import base64
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.files import digest
from data_prep.manifest import sealed, write_manifest
from data_prep.plan import ALGORITHM_VERSION, shaping
from data_prep.weights import BLOCK
from pipeline.config import RunConfig, load_config
from pipeline.data.order import order_of_config
from pipeline.errors import Mistake
from pipeline.plan.changes import stretches
from pipeline.plan.estimate import Plan, largest_that, make_plan, record_of
from pipeline.plan.hardware import DEVICES, USABLE_SHARE, Hardware, hardware_for
from pipeline.plan.memory import Memory, memory
from pipeline.plan.table import render
from pipeline.plan.vocabulary import Vocabulary, find_vocabulary
from pipeline.runs import pin
from pipeline.workspace import Workspace
from tests.e2e.test_cli import failing, loaded_by
from tests.e2e.whole_runs import headrace
from tests.train.small_runs import config_tree, small_corpus, write_config

CONFIGS = Path(__file__).parents[2] / "configs"
FOR_GPUS = ["10m", "50m", "124m", "350m", "1b", "7b", "13b", "70b"]

GPUS = sorted(device.name for device in DEVICES.values() if device.kind == "gpu")


def config_named(name: str, *overrides: str) -> RunConfig:
    return load_config(CONFIGS / f"{name}.yaml", overrides)


def plan_named(name: str, *overrides: str, gpu: str | None = None, gpus: int | None = None) -> Plan:
    config = config_named(name, *overrides)
    assert config.data.tokenizer.train is not None
    vocabulary = Vocabulary(size=config.data.tokenizer.train.vocab_size, source="test")
    return make_plan(config, vocabulary, hardware_for(config, gpu=gpu, count=gpus))


def memory_at(plan: Plan, config: RunConfig, micro_batch_size: int, stage: int) -> Memory:
    return memory(
        config.model,
        replace(config.train, micro_batch_size=micro_batch_size),
        plan.sequence_length,
        plan.vocabulary.size,
        plan.hardware.count,
        stage=stage,  # type: ignore[arg-type]
        gpu=True,
    )


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_loads_and_can_be_planned(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert plan_named(path.stem).hours > 0


@pytest.mark.parametrize(
    ("name", "parameters", "gpus_that_fit"),
    [
        ("10m", 10.2e6, list(GPUS)),
        ("50m", 48.9e6, list(GPUS)),
        ("350m", 355e6, list(GPUS)),
        ("13b", 13.0e9, ["a100", "h100", "h200", "b200"]),
        ("70b", 69.0e9, list(GPUS)),
        ("124m", 124e6, ["a100-40gb", "a100", "h100", "h200", "b200"]),
        ("1b", 1.18e9, ["a100", "h100", "h200", "b200"]),
        ("7b", 6.74e9, ["h200", "b200"]),
    ],
)
def test_the_large_configs_are_what_they_say_and_fit(name: str, parameters: float, gpus_that_fit: list[str]) -> None:
    assert plan_named(name).parameters.total == pytest.approx(parameters, rel=0.005)
    fitting = [gpu for gpu in DEVICES if plan_named(name, gpu=gpu).chosen.fits]
    assert sorted(fitting) == sorted(gpus_that_fit)


def test_7b_fits_80_gb_in_the_way_that_its_comment_says() -> None:
    assert plan_named("7b", "train.zero.stage=2", gpu="h100").chosen.fits


@pytest.mark.parametrize("name", FOR_GPUS)
def test_the_largest_micro_batch_fits_and_the_next_does_not(name: str) -> None:
    plan, config = plan_named(name), config_named(name)
    assert plan.usable_bytes == int(141e9 * USABLE_SHARE)
    for stage in plan.stages:
        largest = stage.largest_micro_batch
        assert largest is not None
        if largest:
            assert memory_at(plan, config, largest, stage.stage).total <= plan.usable_bytes
        assert memory_at(plan, config, largest + 1, stage.stage).total > plan.usable_bytes


@pytest.mark.parametrize("most", [0, 1, 2, 3, 4, 7, 8, 9, 1000])
def test_largest_that(most: int) -> None:
    assert largest_that(lambda size: size <= most) == most


def test_each_stage_shards_what_it_says() -> None:
    """Rajbhandari et al. (2020), figure 1: optimizer state from stage 1, gradients from 2, parameters from 3."""
    one, many = ({s.stage: s.memory for s in plan_named("7b", gpus=gpus).stages} for gpus in (1, 64))
    for part, first in (("optimizer", 1), ("gradients", 2), ("weights", 3)):
        for stage in range(4):
            before, after = getattr(one[stage], part), getattr(many[stage], part)
            assert after == pytest.approx(before / 64 if stage >= first else before, rel=1e-6), (part, stage)
    assert one[0].weights + one[0].optimizer == 14 * plan_named("7b").parameters.total


def test_memory_is_the_sum_of_its_parts_and_the_update_reuses_the_activations_room() -> None:
    plan = plan_named("124m", "train.micro_batch_size=1", "data.sequence_length=8")
    chosen = plan.chosen.memory
    assert chosen.activations + chosen.logits < 4 * plan.parameters.total  # less than the update's flat gradients
    assert chosen.activations + chosen.logits + chosen.buffers == 4 * plan.parameters.total
    assert plan_named("124m").chosen.memory.buffers == 0


def test_what_is_computed_twice_costs_time_and_saves_memory() -> None:
    plain = plan_named("13b", "model.recompute=none")
    every, other, attention = (
        plan_named("13b", *words) for words in ((), ("model.recompute_every=2",), ("model.recompute=attention",))
    )
    assert every.hours == pytest.approx(plain.hours * 4 / 3)
    assert other.hours == pytest.approx(plain.hours * 7 / 6)
    assert plain.hours < attention.hours < every.hours
    kept = [plan.chosen.memory.activations for plan in (every, other, attention, plain)]
    assert kept[0] < kept[1] < kept[3]
    assert kept[0] < kept[2] < kept[3]
    assert plan_named("13b", "model.loss_chunk_size=null").chosen.memory.logits > 2 * every.chosen.memory.logits
    assert every.flops_per_token == plain.flops_per_token, "MFU counts useful work"


def test_time_and_cost_are_tokens_times_flops_over_speed() -> None:
    config = config_named("7b")
    hardware = Hardware(device=DEVICES["h100"], count=64, mfu=0.5, price_per_gpu_hour=2.0)
    plan = make_plan(config, Vocabulary(size=32000, source=""), hardware)
    by_hand = 32_187 * 1024 * 4096 * plan.flops_per_token.full / (64 * 989e12 * 0.5) / 3600
    assert plan.hours == pytest.approx(by_hand)
    assert plan.cost == pytest.approx(by_hand * 64 * 2.0)
    assert plan.checkpoints_saved == 1 + 33


def test_devices_that_the_batch_does_not_divide_over_are_a_mistake() -> None:
    with pytest.raises(Mistake, match="not divisible by 3 ranks"):
        plan_named("1b", gpus=3)


def test_hardware_follows_the_config_until_told() -> None:
    assert hardware_for(config_named("quickstart")).device.name == "cpu"
    assert hardware_for(config_named("7b")).device.name == "h200"
    assert hardware_for(config_named("7b")).count == 64
    told = hardware_for(config_named("7b"), gpu="H100", count=8, mfu=0.3)
    assert (told.device.name, told.count, told.mfu) == ("h100", 8, 0.3)


def test_gpus_that_the_config_does_not_ask_for_are_not_assumed_without_a_word() -> None:
    plan = plan_named("quickstart", "train.precision=bf16")
    assert plan.hardware.device.name == "h200"
    words = "cluster.gpus_per_node asks for no GPU; H200s are assumed because train.precision is bf16."
    assert words in " ".join(render(plan).split())
    assert record_of(plan)["hardware"]["assumed"].startswith(words)
    for meant in (
        plan_named("quickstart"),
        plan_named("quickstart", "train.precision=bf16", "cluster.gpus_per_node=2"),
        plan_named("quickstart", "train.precision=bf16", gpu="h100"),
        plan_named("quickstart", "train.precision=bf16", gpu="cpu"),
    ):
        assert "assumed because" not in render(meant)
        assert record_of(meant)["hardware"]["assumed"] == ""


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("name", ["quickstart", *FOR_GPUS])
def test_the_table_is_80_columns_wide(name: str, colour: bool) -> None:
    text = render(plan_named(name), colour=colour)
    assert ("\x1b[" in text) == colour
    if not colour:
        assert max(map(len, text.splitlines())) <= 80
        rows = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
        assert {"parameters", "weights", "gradients", "optimizer", "activations", "logits", "buffers"} < set(rows)


def test_the_table_says_what_would_fit() -> None:
    assert "✓ Fits: 66% of the 130 GB" in render(plan_named("7b"))
    assert "train.micro_batch_size=1 fits." in render(plan_named("7b", gpu="h100"))
    assert "train.zero.stage=2 fits." in render(plan_named("7b", "train.zero.stage=0", gpu="h100"))
    smaller = render(plan_named("1b", "train.micro_batch_size=16", gpu="h100"))
    assert "train.micro_batch_size=8 fits." in smaller  # 13 would fit, and divides nothing
    assert "Nor does another stage" in render(plan_named("7b", gpu="a100-40gb"))


def test_batch_warmup_is_planned_in() -> None:
    """More steps for the same tokens, and a micro-batch that divides all of them."""
    stage = "train.batch_warmup=[{global_batch_size: 384, tokens: 78_643_200}]"
    before, after = plan_named("1b"), plan_named("1b", stage)
    assert after.total_steps == before.total_steps + 25
    assert after.total_tokens == (100 * 384 + (after.total_steps - 100) * 512) * 2048
    assert table_of(after) == [
        ["from", "step", "after", "tokens", "global", "batch"],
        ["1", "0", "384"],
        ["101", "78.6M", "512"],
    ]
    assert table_of(before) == []
    sizes = ("train.global_batch_size=960", "train.micro_batch_size=20", stage.replace("384", "320"))
    assert "train.micro_batch_size=10 fits." in render(plan_named("1b", *sizes, gpu="h100"))  # 12 divides 960 only


def test_gpus_that_share_sequences_divide_activations_and_logits() -> None:
    """Not the state, which ZeRO divides over all of them as before. Attention's output is kept twice: as it is computed,
    and as it comes from the peers."""
    whole, shared = plan_named("7b"), plan_named("7b", "train.sequence_parallel=4")
    of_whole, of_shared = whole.chosen.memory, shared.chosen.memory
    assert of_shared.logits == of_whole.logits / 4
    assert of_whole.activations / 4 < of_shared.activations < 1.06 * of_whole.activations / 4
    assert (of_shared.weights, of_shared.optimizer) == (of_whole.weights, of_whole.optimizer)
    assert shared.accumulation == 4 * whole.accumulation
    assert f"{whole.hardware.count // 4} groups of 4 ranks × micro-batch" in render(shared)
    assert (shared.total_steps, shared.tokens_per_step) == (whole.total_steps, whole.tokens_per_step)
    with pytest.raises(Mistake, match=r"train.sequence_parallel: 4 must divide the 6 ranks"):
        plan_named("7b", "train.sequence_parallel=4", gpus=6)


def table_of(plan: Plan) -> list[list[str]]:
    """What the plan says of changes over the run, line by line; none where nothing changes."""
    lines = render(plan).splitlines()
    begin = lines.index("over the run") + 1 if "over the run" in lines else len(lines)
    return [line.split() for line in itertools.takewhile(bool, lines[begin:])]


WEIGHTS = (
    "data.sources.0.weight=[{start: 0, weight: 0.9}, {start: 0.8, weight: 0.4}]",
    "data.sources.1.weight=[{start: 0, weight: 0.1}, {start: 0.5, weight: 0}, {start: 0.8, weight: 0.4}]",
)


def test_stages_of_weights_are_planned_to_the_step() -> None:
    plan = plan_named("1b", *WEIGHTS)
    total = plan.total_steps
    assert [one.shares["web"] for one in plan.stretches] == [0.9, 1.0, 0.5]
    for one, start in zip(plan.stretches, (0, 0.5, 0.8), strict=True):
        assert abs(one.first_step - 1 - start * total) <= BLOCK / 512  # weights change between two blocks
    assert table_of(plan)[1:] == [
        ["1", "0", "512", "web", "90.0%,", "code", "10.0%"],
        [f"{plan.stretches[1].first_step:,}", "13.0B", "512", "web", "100.0%"],
        [f"{plan.stretches[2].first_step:,}", "20.8B", "512", "web", "50.0%,", "code", "50.0%"],
    ]


def test_a_stretch_begins_where_the_order_changes(tmp_path: Path) -> None:
    """From 4 to 8 sequences after 1,001 steps, so that the mix changes in the middle of a step."""
    manifest = small_corpus(tmp_path / "corpus")
    path = write_config(tmp_path / "run.yaml", config_tree(tmp_path / "ws", steps=4 * BLOCK // 8, every_steps=10**6))
    config = load_config(
        path,
        [
            f"train.batch_warmup=[{{global_batch_size: 4, tokens: {1001 * 4 * 64}}}]",
            "data.sources.0.weight=[{start: 0, weight: 1}, {start: 0.5, weight: 0}]",
            "data.sources.1.weight=[{start: 0, weight: 0}, {start: 0.5, weight: 1}]",
        ],
    )
    begin, grown, mixed = stretches(config)
    assert [one.global_batch_size for one in (begin, grown, mixed)] == [4, 8, 8]
    assert [one.shares for one in (begin, grown, mixed)] == [
        {"prose": 1.0, "code": 0.0},
        {"prose": 1.0, "code": 0.0},
        {"prose": 0.0, "code": 1.0},
    ]
    assert (begin.first_step, grown.first_step, grown.first_token) == (1, 1002, 1001 * 4 * 64)
    order = order_of_config(config, manifest)

    def sources(step: int) -> list[str]:
        places = config.batches.positions(step - 1)
        return [manifest.sources[at].name for at in order.locate(np.arange(places.start, places.stop)).source]

    assert sources(1001) == ["prose"] * 4
    assert sources(1002) == ["prose"] * 8
    assert sources(mixed.first_step - 1) == ["prose"] * 8
    assert sources(mixed.first_step) == ["prose"] * 4 + ["code"] * 4
    assert sources(mixed.first_step + 1) == ["code"] * 8


def test_the_record_is_json_with_totals() -> None:
    record = json.loads(json.dumps(record_of(plan_named("7b"))))
    assert record["parameters"]["total"] == 6_738_415_616
    stage = record["stages"][record["chosen_stage"]]
    assert stage["memory"]["total"] == sum(
        stage["memory"][part] for part in stage["memory"] if part not in ("total", "host")
    )
    assert record["gpu_hours"] == pytest.approx(64 * record["hours"])


def test_the_vocabulary_is_that_of_the_corpus_or_what_the_config_promises(tmp_path: Path) -> None:
    tree: dict[str, Any] = config_tree(tmp_path / "ws", steps=10, every_steps=5)
    tree["data"]["tokenizer"] = {"train": {"vocab_size": 999}}
    config = load_config(write_config(tmp_path / "run.yaml", tree))
    workspace = Workspace(path=tmp_path / "ws")
    assert find_vocabulary(config, workspace, None).size == 999
    assert find_vocabulary(config, workspace, 5) == Vocabulary(size=5, source="--vocab-size")
    assert not workspace.path.exists(), "planning makes no folders"
    manifest = small_corpus(workspace.corpora / "small-0")
    assert find_vocabulary(config, workspace, None).size == 999, "a corpus of another config is not ours"

    promised = {"train": {"vocab_size": manifest.vocab_size}}
    tree["data"]["tokenizer"] = promised
    config = load_config(write_config(tmp_path / "run.yaml", tree))
    workspace.run("small").path.mkdir(parents=True)
    pin(config, workspace.run("small"), workspace.corpora / "small-0", manifest)
    assert find_vocabulary(config, workspace, None) == Vocabulary(size=manifest.vocab_size, source="corpus small-0")
    for said in ("data.sources.0.rules=prose", "train.optimizer.lr=1"):  # the tokenizer is what counts
        config = load_config(tmp_path / "run.yaml", [said])
        assert find_vocabulary(config, workspace, None).source == "corpus small-0"
    config = load_config(tmp_path / "run.yaml", ["data.tokenizer.train.vocab_size=32000"])
    told = Vocabulary(size=32000, source="data.tokenizer.train.vocab_size")
    assert find_vocabulary(config, workspace, None) == told, "the run's corpus has another tokenizer"


def test_another_tokenizers_file_counts_more_than_a_corpus_that_is_built(tmp_path: Path) -> None:
    """The config's digest in a manifest leaves the path out."""
    tree: dict[str, Any] = config_tree(tmp_path / "ws", steps=10, every_steps=5)
    ranks = tmp_path / "more.tiktoken"
    ranks.write_bytes(b"".join(base64.b64encode(bytes([at])) + b" %d\n" % at for at in range(256)))
    tree["data"]["tokenizer"] = {"path": str(ranks), "pattern": "gpt2"}
    config = load_config(write_config(tmp_path / "run.yaml", tree))
    workspace = Workspace(path=tmp_path / "ws")
    manifest = small_corpus(workspace.corpora / "small-0")
    same = digest({"algorithm": ALGORITHM_VERSION} | shaping(config.data))
    write_manifest(workspace.corpora / "small-0", sealed(replace(manifest, vocab_size=999, config_digest=same)))
    assert find_vocabulary(config, workspace, None) == Vocabulary(size=257, source=str(ranks))
    ranks.unlink()
    assert find_vocabulary(config, workspace, None) == Vocabulary(size=999, source="corpus small-0")


def test_a_tokenizer_file_is_counted_and_a_missing_one_asks(tmp_path: Path) -> None:
    small_corpus(tmp_path / "corpus")
    tree: dict[str, Any] = config_tree(tmp_path / "ws", steps=10, every_steps=5)
    tree["data"]["tokenizer"] = {"path": str(tmp_path / "corpus" / "tokenizer.json")}
    config = load_config(write_config(tmp_path / "run.yaml", tree))
    assert find_vocabulary(config, Workspace(path=tmp_path / "ws"), None).size == 257
    ranks = tmp_path / "bytes.tiktoken"
    ranks.write_bytes(b"".join(base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256)))
    tree["data"]["tokenizer"] = {"path": str(ranks), "pattern": "gpt2"}
    config = load_config(write_config(tmp_path / "run.yaml", tree))
    assert find_vocabulary(config, Workspace(path=tmp_path / "ws"), None).size == 257
    tree["data"]["tokenizer"] = {"path": "s3://bucket/tokenizer.json"}
    config = load_config(write_config(tmp_path / "run.yaml", tree))
    with pytest.raises(Mistake, match="--vocab-size"):
        find_vocabulary(config, Workspace(path=tmp_path / "ws"), None)


def test_planning_loads_nothing_heavy() -> None:
    assert loaded_by("plan", str(CONFIGS / "7b.yaml")) == set()
    assert loaded_by("plan", str(CONFIGS / "7b.yaml"), "--json") == set()


def test_the_verb(tmp_path: Path) -> None:
    words = ["--gpu", "h100", "--gpus", "128", "--mfu", "0.5", "--price-per-gpu-hour", "3", "train.zero.stage=3"]
    record = headrace("plan", CONFIGS / "7b.yaml", *words)
    assert (record["hardware"]["device"]["name"], record["hardware"]["count"]) == ("h100", 128)
    assert record["cost"] == pytest.approx(record["gpu_hours"] * 3)
    assert record["chosen_stage"] == 3
    code, error = failing("plan", CONFIGS / "7b.yaml", "--gpu", "tpu")
    assert code == 2
    assert "choose one of b200, h200" in error


def test_other_gpus_than_the_configs_must_hold_its_groups_whole() -> None:
    record = headrace("plan", CONFIGS / "70b.yaml", "--gpus", "64", "train.zero.zero_hpz_partition_size=8")
    assert record["hardware"]["count"] == 64
    code, error = failing("plan", CONFIGS / "70b.yaml", "--gpus", "4", "train.zero.zero_hpz_partition_size=8")
    assert (code, error.count("\n")) == (2, 1)
    assert "train.zero.zero_hpz_partition_size: 8 must divide the run's 4 ranks" in error
