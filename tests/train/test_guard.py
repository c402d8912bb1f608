"""The guard: its verdicts and decisions as functions, and what it does to real runs that are harmed."""

import math
import random
import re
import shutil
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from cluster.signals import StopNotice
from cluster.world import World
from data_prep.files import write_record
from data_prep.manifest import Manifest, read_manifest
from data_prep.shards import open_shard
from data_prep.small import write_small_corpus
from data_prep.weights import BLOCK
from pipeline.batches import Batches
from pipeline.config import GuardConfig, load_config
from pipeline.data.mixture import Mixture
from pipeline.data.order import Order, order_of_config
from pipeline.data.position import Window
from pipeline.data.trace import document_ids
from pipeline.errors import Mistake, PipelineError
from pipeline.monitor.journal import Journal, read_journal, unbroken
from pipeline.train import rollback
from pipeline.train.checkpoint import WEIGHTS_NAME, read_checkpoint, steps_saved
from pipeline.train.guard import (
    Decision,
    Figures,
    Guard,
    GuardState,
    Replay,
    Verdict,
    decide,
    read_guard,
    verdict,
)
from pipeline.train.rollback import Consequences, act, consequences, recent_figures
from pipeline.train.training import Tell, Training
from pipeline.workspace import RunFolder
from tests.disk import record_disk
from tests.train.small_runs import ALONE, config_tree, harm, run_ranks, small_corpus, start_ranks, write_config
from tests.train.stored_runs import save

GUARD = GuardConfig(window_steps=32)


def falling(count: int, seed: int = 0) -> list[Figures]:
    """A curve as training draws it: falling, noisy, its gradients too."""
    noise = random.Random(seed)
    return [
        Figures(loss=3 + math.exp(-step / 50) + noise.gauss(0, 0.02), grad_norm=math.exp(noise.gauss(-1, 0.2)))
        for step in range(count)
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_bad_from_the_first_step_on(value: float) -> None:
    assert verdict([], 1, value, 1.0, GUARD).kind == "nonfinite"
    assert verdict([], 1, 1.0, value, GUARD).kind == "nonfinite"
    assert "loss of step 1 is nan" in verdict([], 1, math.nan, 1.0, GUARD).why
    assert "gradient norm of step 7 is inf" in verdict([], 7, 1.0, math.inf, GUARD).why


def test_a_usual_curve_has_no_spikes() -> None:
    for seed in range(5):
        curve = falling(400, seed)
        for at, one in enumerate(curve):
            assert verdict(curve[:at], at + 1, one.loss, one.grad_norm, GUARD).kind == "good", (seed, at)


def test_spikes_are_told_apart_and_explained() -> None:
    history = falling(200)
    assert verdict(history, 201, 4.0, 0.4, GUARD).kind == "loss_spike"
    assert "loss of step 201 is 4, " in verdict(history, 201, 4.0, 0.4, GUARD).why
    assert verdict(history, 201, 3.0, 40.0, GUARD).kind == "grad_norm_spike"
    assert verdict(history, 201, 2.0, 0.01, GUARD).kind == "good", "nothing is wrong with a low loss"
    for off in ("loss_deviations", "grad_norm_deviations"):
        quiet = GuardConfig(window_steps=32, **{off: 0})  # type: ignore[arg-type]
        assert verdict(history, 201, 4.0, 0.4, quiet).kind == ("good" if off == "loss_deviations" else "loss_spike")


def test_no_spike_before_half_a_window_is_there_and_none_on_a_flat_curve() -> None:
    flat = [Figures(loss=2.0, grad_norm=1.0)] * 32
    assert verdict(flat[:15], 16, 100.0, 1.0, GUARD).kind == "good"
    assert verdict(flat[:16], 17, 100.0, 1.0, GUARD).kind == "loss_spike"
    assert verdict(flat, 33, 2.1, 1.0, GUARD).kind == "good"


def test_one_wild_step_in_the_window_hides_no_other() -> None:
    """A mean and a standard deviation would be drawn up by it."""
    history = [*falling(100)[:-1], Figures(loss=500.0, grad_norm=1.0)]
    assert verdict(history, 101, 5.0, 0.4, GUARD).kind == "loss_spike"


def test_only_the_window_counts() -> None:
    history = [Figures(loss=100.0, grad_norm=1.0)] * 500 + falling(32)
    assert verdict(history, 533, 50.0, 0.4, GUARD).kind == "loss_spike"


BAD, FINE = Verdict(kind="loss_spike", why="the loss is high"), Verdict(kind="good")


def test_a_bad_step_is_replayed_once_and_skipped_if_it_is_bad_again() -> None:
    assert decide(GuardState(), FINE, 10, GUARD) == Decision(kind="go_on")
    first = decide(GuardState(), BAD, 10, GUARD)
    assert (first.kind, first.first, first.last) == ("replay", 9, 10)
    replaying = GuardState(rollbacks=1, replay=Replay(first=9, last=10))
    assert decide(replaying, FINE, 9, GUARD).kind == "go_on"
    assert decide(replaying, FINE, 10, GUARD).kind == "hardware"
    for step in (9, 10):
        again = decide(replaying, BAD, step, GUARD)
        assert (again.kind, again.first, again.last) == ("skip", 9, 10)
    assert decide(replaying, BAD, 7, GUARD).kind == "replay", "another step than the one under suspicion"
    assert decide(GuardState(), BAD, 1, GUARD).first == 1


def test_after_so_many_rollbacks_it_gives_up() -> None:
    config = GuardConfig(max_rollbacks=2)
    assert decide(GuardState(rollbacks=1), BAD, 10, config).rolls_back
    assert decide(GuardState(rollbacks=2), BAD, 10, config).kind == "give_up"
    assert decide(GuardState(rollbacks=2), FINE, 10, config).kind == "go_on"


def test_recent_figures_are_those_of_the_unbroken_curve(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert recent_figures(path, 4) == []
    with Journal(path) as journal:
        for step in range(1, 11):
            journal.append("step", step=step, loss=float(step), grad_norm=1.0)
        journal.append("step", step=11, loss=math.nan, grad_norm=1.0)
        journal.append("resume", step=8)
        journal.append("step", step=9, loss=90.0, grad_norm=1.0)
        for _ in range(200):  # more than the first look at the file's end covers
            journal.append("checkpoint", step=9, why="x" * 100)
    assert [one.loss for one in recent_figures(path, 4)] == [6.0, 7.0, 8.0, 90.0]
    assert len(recent_figures(path, 100)) == 9
    assert [one.loss for one in recent_figures(path, 4, since=8)] == [8.0, 90.0]


def test_a_step_is_compared_with_none_of_another_mix() -> None:
    before, change = falling(100), 101
    assert Guard(GUARD, GuardState(), before).judge(change, Figures(loss=9, grad_norm=1)).kind == "replay"
    guard = Guard(GUARD, GuardState(), before, [change])
    later = [Figures(loss=one.loss + 5, grad_norm=one.grad_norm) for one in falling(17, seed=1)]
    assert {guard.judge(change + at, one).kind for at, one in enumerate(later)} == {"go_on"}
    assert guard.judge(change + 17, Figures(loss=20, grad_norm=1)).kind == "replay", "it is as watchful as before"
    assert Guard(GUARD, GuardState(), before, [change]).judge(change, Figures(loss=math.nan, grad_norm=1)).rolls_back


def rolled(kind: Literal["replay", "skip"], first: int, saved: Sequence[int]) -> Consequences:
    """What rolling back behind the steps from `first` to 9 leads to, the second time."""
    decision = Decision(kind=kind, first=first, last=9, why="the loss is high")
    return consequences(
        decision, GuardState(rollbacks=1, replay=Replay(first=8, last=9)), saved, ORDER, Batches(size=8)
    )


ORDER = Order(manifest_digest="", seed=0, mixture=Mixture(weights=(1.0,), key=0), sources=())


@pytest.mark.parametrize(
    ("first", "saved", "gone", "since"),
    [
        (9, [0, 4, 8], (), 9),
        (8, [0, 4, 8], (8,), 8),
        (4, [0, 4, 8], (8, 4), 4),
        (1, [0, 4, 8], (8, 4), 1),
        (5, [4, 8], (8,), 5),
        (3, [4, 8], (8,), 5),
    ],
)
def test_a_rollback_leaves_no_checkpoint_that_has_trained_on_its_steps_but_the_oldest(
    first: int, saved: list[int], gone: tuple[int, ...], since: int
) -> None:
    replay, skip = rolled("replay", first, saved), rolled("skip", first, saved)
    assert replay.set_aside == skip.set_aside == gone
    assert (replay.decision.first, replay.decision.last) == (since, 9)
    assert replay.state == GuardState(rollbacks=2, replay=Replay(first=since, last=9))
    window = Window(first=8 * (since - 1), count=8 * (10 - since))
    assert skip.state == GuardState(rollbacks=2, skipped=(window,))


def test_only_a_rollback_sets_anything_aside() -> None:
    state = GuardState(rollbacks=1, replay=Replay(first=8, last=9))
    for kind in ("hardware", "give_up"):
        decision = Decision(kind=kind, first=8, last=9)  # type: ignore[arg-type]
        after = consequences(decision, state, [0, 4, 8], ORDER, Batches(size=8))
        assert (after.decision, after.set_aside, after.state) == (decision, (), GuardState(rollbacks=1))


def alone(folder: Path, tell: Tell) -> Training:
    """One rank's view of a run that has saved steps 0, 4 and 8."""
    config = load_config(write_config(folder / "run.yaml", config_tree(folder / "ws", steps=12, every_steps=4)))
    run = RunFolder(path=folder)
    for step in (0, 4, 8):
        save(run, step)
    return Training(
        config=config,
        run=run,
        corpus=folder / "corpus",
        manifest=small_corpus(folder / "corpus"),
        world=ALONE,
        notice=StopNotice({}),
        tell=tell,
    )


REPLAY = Decision(kind="replay", first=5, last=9, why="the loss is high")


def test_by_the_time_a_rollback_is_recorded_what_it_sets_aside_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power cut would bring back the checkpoint that has trained on what the record says is left out."""
    training = alone(tmp_path, lambda kind, **figures: None)
    order = order_of_config(training.config, training.manifest)
    with monkeypatch.context() as patch:
        done = record_disk(patch)
        act(training, REPLAY, GuardState(), order)
    names = [name for _, name in done]
    renamed, recorded = names.index("step-00000008.rewound-1"), names.index("guard.json")
    assert ("sync", "checkpoints") in done[renamed:recorded]
    assert steps_saved(training.run.checkpoints) == [0, 4]
    assert read_guard(training.run.guard) == GuardState(rollbacks=1, replay=Replay(first=5, last=9))


@pytest.mark.parametrize("left", [b"", b'{"rollbacks": 1, "skip', b'{"skipped": [{"first": 32}]}', b"\xff"])
def test_a_torn_or_edited_record_is_one_line_with_what_to_do(left: bytes, tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    path.write_bytes(left)
    with pytest.raises(
        Mistake, match=rf"^{re.escape(str(path))} is not a GuardState record: .*; .* or remove it: "
    ) as told:
        read_guard(path)
    assert "\n" not in str(told.value)


def test_a_rollback_is_recorded_also_if_its_documents_cannot_be_told(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    training = alone(tmp_path, lambda kind, **figures: told.append({"kind": kind, **figures}))
    for sidecar in training.corpus.glob("shards/*.parquet"):
        sidecar.unlink()
    act(training, REPLAY, GuardState(), order_of_config(training.config, training.manifest))
    [line] = told
    assert (line["kind"], line["verdict"], line["documents"]) == ("guard", "replay", {})
    assert "once more; which documents it saw cannot be told: " in line["problem"]
    assert read_guard(training.run.guard).rollbacks == 1


def test_giving_up_is_one_line_on_every_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback, "from_main", lambda make, world: make() if world.is_main else None)
    config = load_config(write_config(tmp_path / "run.yaml", config_tree(tmp_path / "ws", steps=4, every_steps=2)))
    corpus = tmp_path / "corpus"
    manifest = small_corpus(corpus)
    told: list[dict[str, Any]] = []
    decision = Decision(kind="give_up", first=3, last=3, why="the loss is high")
    for rank in (0, 1):
        training = Training(
            config=config,
            run=RunFolder(path=tmp_path),
            corpus=corpus,
            manifest=manifest,
            world=World(rank=rank, size=2, local_rank=rank, local_size=2, master_addr="127.0.0.1", master_port=1),
            notice=StopNotice({}),
            tell=lambda kind, **figures: told.append(figures),
        )
        with pytest.raises(
            PipelineError, match=r"the loss is high, after 10 rollbacks.*raise train.guard.max_rollbacks"
        ):
            act(training, decision, GuardState(rollbacks=10), order_of_config(config, manifest))
    assert len(told) == 1
    assert told[0]["documents"]["prose"]


# Real runs from here on. Two ranks, byte-sized model; step 14 is harmed.

STEPS, EVERY, BAD_STEP = 20, 5, 14


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    tree: dict[str, Any] = config_tree(tmp_path / "ws", steps=STEPS, every_steps=EVERY)
    tree["train"] |= {"optimizer": {"lr": 1e-2}, "guard": {"window_steps": 8, "loss_deviations": 6.0, "skip_steps": 1}}
    small_corpus(tmp_path / "corpus")
    return write_config(tmp_path / "run.yaml", tree)


def guard_lines(run: Path) -> list[tuple[str, int, int]]:
    lines = read_journal(run / "metrics.jsonl")
    return [(line["verdict"], line["first"], line["last"]) for line in lines if line["kind"] == "guard"]


def digests(run: Path) -> list[str]:
    return [line["batch_digest"] for line in unbroken(read_journal(run / "metrics.jsonl"))]


def final_weights(run: Path) -> bytes:
    return (run / f"checkpoints/step-{STEPS:08d}" / WEIGHTS_NAME).read_bytes()


def poison(corpus: Path, manifest: Manifest, order: Order, steps: Sequence[int], batch_size: int) -> None:
    """Writes noise over the sequences that some steps, counted from 1, train on."""
    noise = np.random.default_rng(0)
    for step in steps:
        ids = order.locate(np.arange((step - 1) * batch_size, step * batch_size))
        for source, shard, row in zip(ids.source, ids.shard, ids.row, strict=True):
            record = manifest.source_shards(manifest.sources[source].name)[shard]
            path = corpus / "shards" / record.name
            tokens = open_shard(path, manifest)[row]
            stride = 512 + -(-tokens.nbytes // 512) * 512
            data = bytearray(path.read_bytes())
            garbage = noise.integers(128, 256, tokens.size).astype(tokens.dtype)
            data[row * stride + 512 : row * stride + 512 + tokens.nbytes] = garbage.tobytes()
            path.write_bytes(data)


@pytest.mark.slow
def test_bad_data_is_replayed_then_left_out_and_every_later_start_leaves_it_out_too(
    config_path: Path, tmp_path: Path
) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "ws/runs/small"
    config, manifest = load_config(config_path), read_manifest(corpus)
    order = order_of_config(config, manifest)
    poison(corpus, manifest, order, [BAD_STEP], 8)
    run_ranks(config_path, corpus)

    assert guard_lines(run) == [("replay", BAD_STEP, BAD_STEP), ("skip", BAD_STEP, BAD_STEP)]
    lines = [line for line in read_journal(run / "metrics.jsonl") if line["kind"] == "guard"]
    assert lines[1]["documents"] == document_ids(corpus, manifest, order, config.batches, [BAD_STEP])
    shifted = order.skipping((BAD_STEP - 1) * 8, 8)
    steps = [config.batches.positions(step) for step in range(STEPS + 1)]
    expected = [order.batch_digest(step) for at, step in enumerate(steps) if at != BAD_STEP - 1]
    assert digests(run) == [shifted.batch_digest(step) for step in steps[:-1]] == expected
    assert read_checkpoint(run / "checkpoints/step-00000010").position.skipped == ()
    assert read_checkpoint(run / "checkpoints/step-00000015").position.skipped == shifted.skipped

    # Started again behind the window, and anew with nothing but the record: the same data, the same weights.
    weights = final_weights(run)
    shutil.rmtree(run / f"checkpoints/step-{STEPS:08d}")
    run_ranks(config_path, corpus)
    assert final_weights(run) == weights
    assert digests(run) == expected

    # Without the guard's record: what is missing is said, and how to write it anew.
    (run / "guard.json").unlink()
    shutil.rmtree(run / f"checkpoints/step-{STEPS:08d}")
    process = start_ranks(config_path, corpus)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    said = re.search(r"step-00000015 was trained on other data than \S*guard.json leads to.*one that says (.*)", output)
    assert said, output
    (run / "guard.json").write_text(said[1])
    run_ranks(config_path, corpus)
    assert final_weights(run) == weights
    fresh = tmp_path / "fresh.yaml"
    fresh.write_text(config_path.read_text().replace(str(tmp_path / "ws"), str(tmp_path / "fresh")))
    write_record(tmp_path / "fresh/runs/small/guard.json", read_guard(run / "guard.json"))
    run_ranks(fresh, corpus)
    assert guard_lines(tmp_path / "fresh/runs/small") == []
    assert final_weights(tmp_path / "fresh/runs/small") == weights, "a rollback leaves no trace in the weights"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stage 2, bf16", "stage 3, bf16"])
def test_bad_data_is_left_out_at_every_stage_and_precision(how: str, config_path: Path, tmp_path: Path) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "ws/runs/small"
    config, manifest = load_config(config_path), read_manifest(corpus)
    order = order_of_config(config, manifest)
    poison(corpus, manifest, order, [BAD_STEP], 8)
    run_ranks(config_path, corpus, *overrides(how))
    assert guard_lines(run) == [("replay", BAD_STEP, BAD_STEP), ("skip", BAD_STEP, BAD_STEP)]
    steps = [config.batches.positions(step) for step in range(STEPS + 1)]
    assert digests(run) == [order.batch_digest(step) for at, step in enumerate(steps) if at != BAD_STEP - 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "where"),
    [
        ("stage 0, fp32", "weights"),
        ("stage 1, fp32", "weights"),
        ("stage 1, bf16", "weights"),
        ("stage 2, fp32, offloaded", "weights"),
        ("stage 2, bf16, offloaded", "exp_avg"),
        ("stage 3, fp32", "master"),
        ("stage 3, bf16", "weights"),
    ],
)
def test_a_bit_that_flips_on_one_rank_is_a_machines_fault_and_nothing_is_left_out(
    how: str, where: str, config_path: Path, tmp_path: Path
) -> None:
    """What the optimizer keeps comes to the weights in that step, and shows in the next."""
    corpus, run = tmp_path / "corpus", tmp_path / "ws/runs/small"
    process = start_ranks(config_path, corpus, *overrides(how), script=harm(where, BAD_STEP))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    seen = BAD_STEP if where == "weights" else BAD_STEP + 1
    assert guard_lines(run) == [("replay", seen, seen), ("hardware", seen, seen)]
    assert read_guard(run / "guard.json") == GuardState(rollbacks=1)

    clean = tmp_path / "clean.yaml"
    clean.write_text(config_path.read_text().replace(str(tmp_path / "ws"), str(tmp_path / "clean")))
    run_ranks(clean, corpus, *overrides(how))
    assert digests(run) == digests(tmp_path / "clean/runs/small")
    assert final_weights(run) == final_weights(tmp_path / "clean/runs/small")


@pytest.mark.slow
def test_a_change_of_the_mix_is_no_spike(tmp_path: Path) -> None:
    """From a source that is learnt by heart to one of noise, in one step; also where a resume looks back over it."""
    draw, run = random.Random(0), tmp_path / "ws/runs/small"
    documents = {
        "prose": [(f"p{at}", "the mill " * 40) for at in range(60)],
        "code": [(f"c{at}", "".join(draw.choices(string.printable, k=300))) for at in range(60)],
    }
    write_small_corpus(tmp_path / "corpus", documents, sequence_length=8, sequences_per_shard=512)
    tree: dict[str, Any] = config_tree(tmp_path / "ws", steps=1, every_steps=6, ranks=1)
    for source, first in zip(tree["data"]["sources"], (1, 0), strict=True):
        source["weight"] = [{"start": 0, "weight": first}, {"start": 0.5, "weight": 1 - first}]
    tree["data"]["sequence_length"], tree["model"] = 8, {"layers": 1, "width": 16, "heads": 2}
    tree["train"] |= {"tokens": 2 * BLOCK * 8, "global_batch_size": 128, "micro_batch_size": 128}
    tree["train"] |= {"optimizer": {"lr": 1e-2}, "guard": {"window_steps": 16}}
    config = write_config(tmp_path / "run.yaml", tree)
    run_ranks(config, tmp_path / "corpus", ranks=1)
    losses = [line["loss"] for line in unbroken(read_journal(run / "metrics.jsonl"))]
    assert len(losses) == 64
    assert losses[32] > 5 > 1 > max(losses[24:32])
    for step in steps_saved(run / "checkpoints")[7:]:  # the change was at step 33; a resume from 36 sees it
        shutil.rmtree(run / f"checkpoints/step-{step:08d}")
    run_ranks(config, tmp_path / "corpus", ranks=1)
    assert guard_lines(run) == []


def overrides(how: str) -> list[str]:
    """`stage 2, bf16, offloaded` as the command line has it."""
    stage, precision, *offloaded = how.split(", ")
    words = [f"train.zero.stage={stage.split()[1]}", f"train.precision={precision}"]
    return words + ["train.zero.offload_optimizer=cpu"] * len(offloaded)
