"""Every mistake in a config is one line that names the key and what to do."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.manifest import read_manifest
from data_prep.plan import shaping
from pipeline.config import changed_keys, load_config, weight_shaping
from pipeline.config.yaml_text import values_of
from pipeline.data.mixture import Change
from pipeline.data.order import order_of_config
from pipeline.errors import Mistake
from tests.train.small_runs import config_tree, small_corpus


def load(tmp_path: Path, tree: Any = None, *overrides: str) -> Any:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree or config_tree(tmp_path / "ws", steps=10, every_steps=5)))
    return load_config(path, overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "train.optimizer.learning_rate=1",
            r"train.optimizer.learning_rate: unknown key; known keys: lr, weight_decay",
        ),
        (
            "train={tokns: 1, global_batch_size: 8, micro_batch_size: 1, optimizer: {lr: 1}}",
            r"train.tokns: unknown key; did you mean 'tokens'",
        ),
        ("train.optimizer.weightdecay=1", r"unknown key; did you mean 'weight_decay'"),
        ("data.sources.0.wieght=1", r"data.sources.0.wieght: unknown key; did you mean 'weight'"),
        ("data.sources.7.weight=1", r"'7' is not a place in a list of 2"),
        ("trian.tokens=1", r"trian: unknown key; did you mean 'train'"),
        ("train.tokens=many", r"train.tokens: .*'many'"),
        ("train.zero.stage=4", r"train.zero.stage: .*4"),
        (
            "train.global_batch_size=9",
            r"9 is not divisible by 2 ranks × micro-batch 2 = 4; the nearest that fit: 8, 12",
        ),
        ("train.global_batch_size=3", r"the nearest that fit: 4$"),
        ("train.micro_batch_size=0", r"train.micro_batch_size: 0 must be at least 1"),
        ("model.heads=5", r"model.heads: width 32 over 5 heads"),
        ("model.kv_heads=3", r"model.kv_heads: 4 heads cannot be shared by 3"),
        ("cluster.nodes=0", r"cluster.nodes: 0 must be at least 1"),
        ("cluster.processes_per_node=-1", r"cluster.processes_per_node: -1 must be at least 1"),
        ("train.optimizer.lr=.nan", r"train.optimizer.lr: nan must be more than 0, and finite"),
        ("train.optimizer.lr=-1", r"train.optimizer.lr: -1.0 must be more than 0"),
        ("train.zero.reduce_dtype=bf16", r"train.zero.reduce_dtype: bf16 needs train.precision=bf16; leave it out"),
        ("train.optimizer.muon_lr=.inf", r"train.optimizer.muon_lr: inf must be more than 0, and finite"),
        ("train.optimizer.weight_decay=-0.1", r"train.optimizer.weight_decay: -0.1 must be 0 or more"),
        ("train.optimizer.betas=[0.9, 1]", r"train.optimizer.betas: 1.0 must be at least 0 and below 1"),
        ("train.schedule.warmup_steps=-1", r"train.schedule.warmup_steps: -1 must not be negative"),
        ("train.schedule.final_lr_fraction=.nan", r"train.schedule.final_lr_fraction: nan must lie between 0 and 1"),
        ("train.schedule.final_lr_fraction=2", r"train.schedule.final_lr_fraction: 2.0 must lie between 0 and 1"),
        ("train.schedule.decay_fraction=-0.1", r"train.schedule.decay_fraction: -0.1 must lie between 0 and 1"),
        ("train.seed=-1", r"train.seed: -1 must lie between 0 and 9223372036854775807"),
        (f"train.seed={2**63}", r"train.seed: 9223372036854775808 must lie between 0 and"),
        ("train.guard.start_timeout_s=.inf", r"train.guard.start_timeout_s: inf must be at most 604800"),
        ("train.guard.start_timeout_s=1e12", r"train.guard.start_timeout_s: 1000000000000.0 must be at most"),
        *((f"model.mlp_width={width}", rf"model.mlp_width: {width} must be at least 1") for width in (0, -64)),
        *(
            (f"model.{key}={value}", rf"model.{key}: {float(value.lstrip('.'))} must be more than 0")
            for key in ("rope_theta", "norm_eps", "logit_soft_cap")
            for value in ("-1", "0", ".nan", ".inf")
        ),
        ("model.z_loss=.nan", r"model.z_loss: nan must not be negative"),
        ("model.z_loss=.inf", r"model.z_loss: inf must not be negative"),
        ("train.guard.loss_deviations=.nan", r"train.guard.loss_deviations: nan must not be negative"),
        ("train.checkpoint.upload_grace_s=.nan", r"train.checkpoint.upload_grace_s: nan must not be negative"),
        ("train.tokens=1e9", r"train.tokens: must be a whole number, but the value is '1e9'; write 1_000_000_000"),
        ("train.tokens=1e-3", r"train.tokens: must be a whole number, but the value is '1e-3'$"),
        (
            "data.sequence_length=4_000_000",
            r"train.tokens: 5120 is less than one batch, train.global_batch_size × data.sequence_length = 8 × 4000000 ",
        ),
        ("train.tokens=511", r"train.tokens: 511 is less than one batch, .* = 8 × 64 = 512 tokens"),
        ("train.schedule.warmup_steps=1000", r"more than the run's 10 steps"),
        ("workspace=s3://bucket/x", r"s3://bucket/x is remote"),
        ("data.cache_bytes=1_000", r"data.cache_bytes: needs remote"),
        ("data.cache_folder=/x", r"data.cache_folder: needs remote"),
        ("data.cache_bytes=0", r"data.cache_bytes: 0 must be"),
        ("remote=s3://key:secret@bucket/x", r"remote: give a plain URL such as"),
        ("remote=s3://bucket/x?secret=1", r"remote: give a plain URL such as"),
        *(
            (f"remote={place}", f"remote: {place} is no place that is the same for every process")
            for place in ("/", "s3://", "s3:///x", "file://x", "backup", "./backup", "~/backup", "s3:/bucket/x")
        ),
        ("remote=s3://bucket/team*", r"remote: 's3://bucket/team\*' must be without \*, \[ and \]"),
        ("remote='s3://[bucket'", r"remote: 's3://\[bucket' must be without \*, \[ and \]"),
        ("remote=file:///mnt/team[1]", r"remote: 'file:///mnt/team\[1\]' must be without"),
        ("train.checkpoint.keep_local=1", r"train.checkpoint.keep_local: 1 needs remote"),
        ("train.checkpoint.upload_grace_s=-1", r"train.checkpoint.upload_grace_s: -1.0 must not be negative"),
        ("name=../escape", r"name: '../escape' is not made of lower-case letters, digits and hyphens"),
        ("name=two_words", r"name: 'two_words' is not made of lower-case letters, digits and hyphens"),
        ("data.sources.0.rules=Prose", r"data.sources.0.rules: 'Prose' is unknown; did you mean 'prose'"),
        (
            "data.sources.0.rules=gopher_quality",
            r"data.sources.0.rules: 'gopher_quality' is a rule, not a set of rules; write it as a list: \[gopher_qual",
        ),
        ("data.sources.0.rules=c4_lines", r"'c4_lines' is a rule, not a set of rules; write .*: \[c4_lines\]$"),
        ("data.sources.0.rules=gopher_qualty", r"'gopher_qualty' is unknown; did you mean the rule \[gopher_quality\]"),
        ("data.sources.0.rules=gofer", r"'gofer' is unknown; did you mean 'gopher'\? choose one of none, prose"),
        ("data.sources.0.rules=[{rule: nobody}]", r"data.sources.0.rules.*nobody"),
        ("data.heldout.fraction=1", r"data.heldout.fraction: 1.0 is not in \[0, 1\)"),
        ("data.tokenizer.train.vocab_size=256", r"data.tokenizer.train.vocab_size: 256 cannot hold .* 257 or more"),
        ("data.tokenizer.train.sample_bytes=0", r"data.tokenizer.train.sample_bytes: 0 is too small"),
        *(
            (f"data.heldout.fraction=0 and {also}", rf"{key}: .*raise it, for example to 0.005, or {way_out}")
            for also, key, way_out in (
                ("promote.model=m", "data.heldout.fraction", "give promote=null"),
                ("evaluate.suites=[heldout]", "evaluate.suites", "leave evaluate.suites out"),
                ("evaluate.suites=[] and promote.model=m", "data.heldout.fraction", "give promote=null"),
            )
        ),
        ("data.dedup.minhash={threshold: 2}", r"data.dedup.minhash.threshold: 2.0 is not between 0 and 1"),
        ("data.sources.0.weight=0", r"data.sources.0.weight: 0.0 must be more than 0"),
        (
            "data.sources.0.weight=heavy",
            r"data.sources.0.weight: must be a number or a list, but the value is 'heavy'$",
        ),
        (
            "data.sources.0.weight=[{start: 0, wieght: 1}]",
            r"data.sources.0.weight.0.wieght: unknown key; did you mean 'weight'",
        ),
        ("data.sources.0.weight=[{start: 0}]", r"data.sources.0.weight.0.weight: missing; add it"),
        ("data.sources.0.weight=[{start: 0, weight: x}]", r"data.sources.0.weight.0.weight: .*'x'"),
        ("data.sources.0.weight=[{start: 0.5, weight: 1}]", r"data.sources.0.weight.0.start: 0.5 must be 0"),
        (
            "data.sources.0.weight=[{start: 0, weight: 1}, {start: 0.8, weight: 2}]",
            r"the weights that begin at 0.0 do not hold for one block of 4096 sequences, and the run has 80",
        ),
        ("train.tokens=[1", r"^train.tokens: not YAML: line 1, column 3: expected ',' or '\]'"),
        ("data.dedup={exact: true, exact: false}", r"^data.dedup: exact is given twice \(line 1\)"),
        ("train.tokens=1.5", r"train.tokens: must be a whole number, but the value is 1.5$"),
        ("train.tokens=null", r"train.tokens: must be a whole number, but the value is empty$"),
        ("train.optimizer.lr=fast", r"train.optimizer.lr: must be a number, but the value is 'fast'$"),
        ("train.optimizer.betas=[0.9, 0.9, 0.9]", r"train.optimizer.betas: must have at most 2 items, but has 3$"),
        ("data.dedup.exact=perhaps", r"data.dedup.exact: must be true or false, but the value is 'perhaps'$"),
        ("remote=5", r"remote: must be text, but the value is 5; put it in quotes$"),
        ("data.sources={a: 1}", r"data.sources: must be a list, but the value is {'a': 1}$"),
        ("data.sources.0.languages=en", r"data.sources.0.languages: must be a list, .* 'en'; write \[en\]$"),
        ("data.sources.0.rules=5", r"data.sources.0.rules: must be text or a list, but the value is 5$"),
        ("data.sources.0.rules=[5]", r"data.sources.0.rules.0: must be text or a section with keys of its own, .* 5$"),
        ("data.sources.0.rules=[{rule: [c4]}]", r"data.sources.0.rules.0.rule: must be a number or text, .*'c4'\]$"),
        (f"data.sources={{a: {'x' * 1_000}}}", r"data.sources: must be a list, but the value is {'a': 'x{93}…$"),
        ("model=5", r"model: must be a section with keys of its own, but the value is 5$"),
        ("model=[1]", r"model: must be a section with keys of its own, but the value is \[1\]$"),
        ("data.decontaminate.tasks={a: 5}", r"data.decontaminate.tasks.a: must be text, but the value is 5; put"),
        ("cluster.launcher=slum", r"must be local, slurm or ray, but the value is 'slum'; did you mean slurm\?$"),
        ("train.zero.stage='1'", r"must be 0, 1, 2 or 3, but the value is '1'; did you mean 1\?$"),
        ("evaluate.suites=[blimp]", r"evaluate.suites.0: must be heldout, but the value is 'blimp'$"),
        (
            "monitor.wandb.mode=off",
            r"disabled, but the value is false; YAML reads on, off, yes and no as true and fals",
        ),
        ("promote.model=a/b", r"promote: 'a/b' is not a name; use letters, .* begin with no '.'$"),
        ("noequals", r"'noequals' is not of the form section.key=value"),
        ("train.tokens.deep=1", r"'tokens' holds 5120, which has no keys"),
        ("promote.alias=x", r"promote.model: missing"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, overrides: str, message: str) -> None:
    with pytest.raises(Mistake, match=message) as caught:
        load(tmp_path, None, *overrides.split(" and "))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.sequence_parallel=0"], r"train.sequence_parallel: 0 must be at least 1"),
        (["train.sequence_parallel=3"], r"3 ranks cannot share model.heads, 4, evenly"),
        (
            ["train.sequence_parallel=6", "model.width=96", "model.heads=12", "model.kv_heads=4"],
            r"6 .* model.kv_heads, 4",
        ),
        (["train.sequence_parallel=2", "data.sequence_length=65"], r"2 ranks cannot share data.sequence_length, 65"),
        (["train.sequence_parallel=4"], r"train.sequence_parallel: 4 must divide the 2 ranks"),
        (
            ["train.sequence_parallel=2", "cluster.processes_per_node=6"],
            r"8 is not divisible by 3 × 2 ranks that share sequences × micro-batch 2 = 6; .* fit: 6, 12$",
        ),
    ],
)
def test_sequences_that_cannot_be_shared_are_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(Mistake, match=message) as caught:
        load(tmp_path, None, *overrides)
    assert "\n" not in str(caught.value)


def test_sequences_may_be_shared_by_more_ranks_than_there_are_key_heads(tmp_path: Path) -> None:
    config = load(tmp_path, None, "train.sequence_parallel=4", "cluster.processes_per_node=8")
    assert config.train.data_ranks(config.world_size) == 2
    batch = 2 * config.train.micro_batch_size * config.train.accumulation(config.world_size)
    assert batch == config.train.global_batch_size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "run.yaml: not YAML: line 1, column 6: expected ',' or '\\]'"),
        (
            "name: x\ntrain:\n\ttokens: 1",
            r"run.yaml: not YAML: line 3, column 1: .*; indent with spaces, not with tabs",
        ),
        ("name: 'x\ntrain: 1\n", r"run.yaml: not YAML: line 3, .* a quoted scalar that begins in line 1$"),
        ("name: x: y", r"line 1, column 8: mapping values are not allowed here; a value with ': ' in it needs quotes"),
        ("name: x\ndata: \x07", r"run.yaml: not YAML: line 2 has the character '\\x07'"),
        ("name: x\n---\nname: y", r"run.yaml: not YAML: line 2, column 1: expected a single document"),
        ("name: 2026-13-01", r"run.yaml: not YAML: month must be in 1..12"),
        ("name: x\nname: x", r"run.yaml: name is given twice \(lines 1 and 2\)"),
        ("train: {tokens: 1}\nname: x\n\ntrain:\n  seed: 1", r"run.yaml: train is given twice \(lines 1 and 4\)"),
        ("train: {tokens: 1, tokens: 2}", r"run.yaml: train.tokens is given twice \(line 1\)"),
        ("data:\n  sources:\n  - name: a\n  - name: b\n    name: c", r"data.sources.1.name is given twice \(lines 4 a"),
        ("- a\n- b", "is a mapping with the keys name, data"),
        ("name: x", "missing; add it"),
        ("", "mapping"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(Mistake, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_what_is_merged_may_be_given_again(tmp_path: Path) -> None:
    """`<<` gives defaults: a key beside it is no repetition, nor is a node that is used twice, or in itself."""
    assert values_of("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {<<: *a, <<: *a}", "") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": {"x": 1, "y": 2},
    }
    loop = values_of("a: &a [*a]", "")
    assert loop["a"][0] is loop["a"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no such config file"):
        load_config(tmp_path / "none.yaml")


def test_without_held_out_documents_nothing_is_scored_unless_told(tmp_path: Path) -> None:
    assert load(tmp_path).suites == ("heldout",)
    assert load(tmp_path, None, "evaluate.suites=[]").suites == ()
    none = "data.heldout.fraction=0"
    for legal in ([none], [none, "evaluate.suites=[]"], [none, "promote=null"]):
        assert load(tmp_path, None, *legal).suites == ()


def test_overrides_reach_everywhere(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        None,
        "train.optimizer.lr=3e-4",
        "data.sources.1.weight=0.5",
        "promote.model=m",
        "cluster.slurm.partition=gpu",
    )
    assert config.train.optimizer.lr == 3e-4
    assert config.data.sources[1].weight == 0.5
    assert config.promote.model == "m"
    assert config.cluster.slurm.partition == "gpu"


def test_digest_follows_the_weights_and_nothing_else(tmp_path: Path) -> None:
    base = load(tmp_path)
    for same in (
        "train.zero.stage=3",
        "train.micro_batch_size=1",
        "train.sequence_parallel=2",
        "train.checkpoint.every_steps=1",
        "monitor.wandb.project=x",
        "remote=s3://bucket/x",
        "train.checkpoint.upload_grace_s=9",
    ):
        assert load(tmp_path, None, same).digest == base.digest, same
    cached = load(tmp_path, None, "remote=s3://bucket/x", "data.cache_bytes=1000", "data.cache_folder=/x")
    assert cached.digest == base.digest
    assert shaping(cached.data) == shaping(base.data)
    for other in (
        "train.optimizer.lr=1",
        "train.seed=1",
        "model.layers=3",
        "data.sources.0.weight=9",
        "train.tokens=9999",
    ):
        assert load(tmp_path, None, other).digest != base.digest, other


def test_weights_change_in_stages(tmp_path: Path) -> None:
    """The run's 12,800 sequences are 4 blocks, the last not whole: at 0.6 the nearest begins at 8,192."""
    staged = "data.sources.1.weight=[{start: 0, weight: 0}, {start: 0.6, weight: 0.3}]"
    long = f"train.tokens={12_800 * 64}"
    config = load(tmp_path, None, staged, long)
    order = order_of_config(config, small_corpus(tmp_path / "corpus"))
    assert order.mixture.weights == (0.7, 0.0)
    assert order.mixture.changes == (Change(first_block=2, weights=(0.7, 0.3)),)
    assert config.digest != load(tmp_path, None, long).digest
    assert order_of_config(load(tmp_path, None, long), read_manifest(tmp_path / "corpus")).mixture.changes == ()


def test_a_constant_weight_is_digested_as_the_number_that_it_is(tmp_path: Path) -> None:
    """A golden value: runs that began before weights could change go on."""
    tree = config_tree(Path("ws"), steps=10, every_steps=5)
    assert load(tmp_path, tree).digest == ("2d4c03125593a501fc7fa8d81287dd3618c42804deb1568c8b19f7b6deb64a2b")


def test_changed_keys_are_named(tmp_path: Path) -> None:
    before, after = load(tmp_path), load(tmp_path, None, "train.optimizer.lr=1")
    assert changed_keys(weight_shaping(before), weight_shaping(after)) == ["train.optimizer.lr: 0.003 -> 1.0"]
