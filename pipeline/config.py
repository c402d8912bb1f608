"""RunConfig: a whole run, from raw text to promotion, as one frozen tree.

    YAML file ──> nested dicts ──> dotted overrides ──> RunConfig (validated, frozen) ──> check(): do the parts fit?

Loading validates at the edge, so that everything behind it can trust what it gets. An unknown key is an error that
names the nearest valid one. Nothing here imports torch, ray or deepspeed.
"""

import dataclasses
import difflib
import itertools
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from cluster.config import ClusterConfig
from data_prep.config import EXECUTION, CorpusConfig
from data_prep.files import digest, plain
from data_prep.weights import BLOCK, first_blocks, mixes, problem_of
from pipeline.batches import Batches, BatchStage
from pipeline.errors import Mistake
from pipeline.promote.config import PromoteConfig

FORBID = {"extra": "forbid"}
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
REMOTE = re.compile(r"(file://|local://)?/+[^/].*|(?!file:|local:)[a-z0-9+.-]+://[^/].*")
"""A path from the root, or a URL with a host or bucket: what is relative is another place for each working folder."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    __pydantic_config__ = FORBID

    layers: int
    """Transformer blocks."""
    width: int
    """Size of the residual stream."""
    heads: int
    """Query heads; `width` is divisible by it and the head size is even."""
    kv_heads: int | None = None
    """Key and value heads, each shared by `heads / kv_heads` query heads; `heads` if not given."""
    mlp_width: int | None = None
    """Hidden size of the SwiGLU layer; 8/3 × width, rounded up to a multiple of 64, if not given."""
    tie_embeddings: bool = False
    """Use the token embedding as the output layer too."""
    rope_theta: float = 10_000.0
    """Base of the rotary position frequencies."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMSNorm."""
    arch: Literal["decoder"] = "decoder"
    """The only architecture so far."""
    qk_norm: bool = False
    """RMSNorm of each head's queries and keys (Dehghani et al., 2023): attention's scores stay bounded."""
    logit_soft_cap: float | None = None
    """Logits are squashed into ± this by tanh (Gemma 2, 2024: 30); not if not given."""
    z_loss: float = 0.0
    """Weight of log²Z in the loss (PaLM, 2022: 1e-4), which keeps logits from drifting; 0 turns it off."""
    base_width: int | None = None
    """The width that the learning rate was found at: rates and first weights are scaled so that it holds at `width`
    too (muP; pipeline/model/width.py). Not if not given."""
    recompute: Literal["none", "attention", "block"] = "none"
    """What backward computes again instead of keeping it: nothing, each block's attention, or whole blocks."""
    recompute_every: int = 1
    """With `recompute: block`, every how manyth block: 1 all, 2 every other."""
    loss_chunk_size: int | None = None
    """Positions of a micro-batch whose logits exist at once in training; all if not given."""
    compile: Literal["none", "block", "model"] = "none"
    """What training compiles by torch.compile: nothing, each block, or all blocks as one graph."""

    @property
    def mlp_hidden(self) -> int:
        """The SwiGLU layer's hidden size as built. 8/3 × width makes its three matrices cost what a plain MLP's two of
        4 × width do (Shazeer, 2020)."""
        return self.mlp_width or -(-(8 * self.width) // (3 * 64)) * 64


MODEL_OPTIONS = ("qk_norm", "logit_soft_cap", "z_loss", "base_width")
MODEL_EXECUTION = ("recompute", "recompute_every", "loss_chunk_size", "compile")
"""Fields of ModelConfig that say how it is computed, not what. They came later than the others, like the options:
digests leave out what came later while it is at its default, so what was recorded before still matches its own."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    __pydantic_config__ = FORBID

    lr: float
    """Peak learning rate; with muon that of what AdamW still trains: embedding, output layer and norms."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices; vectors (norms) are never decayed."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    eps: float = 1e-8
    """AdamW's denominator floor."""
    kind: Literal["adamw", "muon"] = "adamw"
    """`muon` trains the blocks' matrices by orthogonalised momentum, and all else by AdamW."""
    muon_lr: float = 0.02
    """Muon's peak learning rate, in spectral norm an update; it follows the same schedule."""
    muon_momentum: float = 0.95
    """Decay rate of Muon's momentum."""
    gradient_clipping: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""


MUON_OPTIONS = ("kind", "muon_lr", "muon_momentum")
"""Fields of OptimizerConfig that AdamW alone does not read."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    __pydantic_config__ = FORBID

    kind: Literal["wsd", "cosine", "linear"] = "wsd"
    """Warm-up-stable-decay, or cosine or linear decay from the end of warm-up."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0."""
    decay_fraction: float = 0.2
    """wsd: share of all steps spent in the final linear decay."""
    final_lr_fraction: float = 0.0
    """Learning rate at the end, as a share of the peak."""


@dataclass(frozen=True, kw_only=True)
class ZeroConfig:
    __pydantic_config__ = FORBID

    stage: Literal[0, 1, 2, 3] = 1
    """What ZeRO shards over the ranks: 0 nothing, 1 optimizer state, 2 and gradients, 3 and parameters."""
    offload_optimizer: Literal["none", "cpu"] = "none"
    """Where optimizer state lives and is updated; `cpu` needs stage 1 or more and a GPU to spare."""
    offload_param: Literal["none", "cpu"] = "none"
    """Where stage 3 keeps the parameters that are not in use."""
    reduce_bucket_size: int | None = None
    """Gradient elements that are reduced at once: the model's parameters, at most 5e8, if not given."""
    zero_hpz_partition_size: int = 1
    """ZeRO++: ranks, those of a node, that hold a second copy of stage 3's parameters between them; 1 turns it off."""
    zero_quantized_weights: bool = False
    """ZeRO++: stage 3 gathers weights as int8. Not exact."""
    zero_quantized_gradients: bool = False
    """ZeRO++: stage 3 reduces gradients as int4. Not exact."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    __pydantic_config__ = FORBID

    every_steps: int = 500
    """Steps between checkpoints; the first step (0) and the last are always saved."""
    keep_last: int = 3
    """Checkpoints kept beside those that an alias or an unfinished evaluation refers to."""
    asynchronous: bool = True
    """Write checkpoints beside training, from a copy in host memory; otherwise training waits for the disk."""
    keep_local: int | None = None
    """Of the checkpoints kept, how many stay in the workspace once `remote` has them; all if not given."""
    upload_grace_s: float = 60.0
    """Longest wait for an upload to `remote` after a notice to stop; at the run's end it is waited for."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    __pydantic_config__ = FORBID

    window_steps: int = 128
    """Good steps that a step is compared with; none is called a spike before half as many are there."""
    loss_deviations: float = 10.0
    """A loss this many robust deviations (1.4826 × MAD) above the window's median is a spike; 0 turns it off."""
    grad_norm_deviations: float = 50.0
    """The same for the gradient's norm, which jumps more, and is clipped; 0 turns it off."""
    skip_steps: int = 2
    """Steps whose data is skipped if it proves bad: the one that showed it, and those right before it."""
    max_rollbacks: int = 10
    """Rollbacks in a run's whole life; one more ends it."""
    step_timeout_s: float = 1800.0
    """Longest time from one step's end to the next, saves between them included; then the run is given up as hung."""
    start_timeout_s: float = 7200.0
    """The same for the first step of a process, with loading and compilation; at least `step_timeout_s`."""


@dataclass(frozen=True, kw_only=True)
class BatchStageConfig:
    __pydantic_config__ = FORBID

    global_batch_size: int
    """Sequences in one optimizer step of the stage; fewer than in the next."""
    tokens: int
    """How long the stage lasts; rounded up to whole steps."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    __pydantic_config__ = FORBID

    tokens: int
    """Tokens to train on; rounded up to whole steps."""
    global_batch_size: int
    """Sequences in one optimizer step, over all ranks and accumulation."""
    batch_warmup: tuple[BatchStageConfig, ...] = ()
    """Stages of smaller global batches that the run begins with, one after the other; `tokens` counts them in."""
    micro_batch_size: int
    """Sequences that one rank takes through the model at once; with `sequence_parallel` its slices of so many."""
    sequence_parallel: int = 1
    """Ranks that share each sequence, a slice of its positions each, and meet in attention (Ulysses; docs/training.md).
    """
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    precision: Literal["fp32", "bf16"] = "bf16"
    """Precision of weights and activations in the model; master weights and Adam state are fp32 in both."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: int = 0
    """Keys the initial weights and the order of the data."""
    guard: GuardConfig = field(default_factory=GuardConfig)

    def data_ranks(self, world_size: int) -> int:
        """How many in a world read sequences of their own: ranks, or groups of ranks that share them."""
        return world_size // self.sequence_parallel

    def data_rank(self, rank: int) -> int:
        """Which of them a rank is, or is part of."""
        return rank // self.sequence_parallel


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    __pydantic_config__ = FORBID

    suites: tuple[Literal["heldout"], ...] = ("heldout",)
    """What each checkpoint is scored on."""


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    __pydantic_config__ = FORBID

    project: str = "headrace"
    """The wandb project that the run appears in."""
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto` is online when a key is there (WANDB_API_KEY or `wandb login`), offline when not."""


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    __pydantic_config__ = FORBID

    wandb: WandbConfig = field(default_factory=WandbConfig)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    __pydantic_config__ = FORBID

    name: str
    """Names the run's folder, its corpus and its job."""
    data: CorpusConfig
    model: ModelConfig
    train: TrainConfig
    workspace: str = "workspace"
    """The folder that holds corpora, runs and the registry."""
    remote: str | None = None
    """A second, durable place for corpora and checkpoints, any fsspec URL (docs/checkpoints.md); none if not given."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    promote: PromoteConfig | None = None
    """Where and how checkpoints are promoted; without it, none is."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)

    @property
    def world_size(self) -> int:
        return self.cluster.nodes * self.cluster.processes_per_node

    @property
    def batches(self) -> Batches:
        """Which sequences of the run's order each step takes."""
        stages = (
            BatchStage(
                steps=-(-stage.tokens // (stage.global_batch_size * self.data.sequence_length)),
                size=stage.global_batch_size,
            )
            for stage in self.train.batch_warmup
        )
        return Batches(size=self.train.global_batch_size, stages=tuple(stages))

    @property
    def total_steps(self) -> int:
        return self.batches.step_at(-(-self.train.tokens // self.data.sequence_length) - 1) + 1

    @property
    def digest(self) -> str:
        """Digest of all that shapes the trained weights, in exact arithmetic: data, model and optimisation.

        What only says where and how the work is done (cluster, ZeRO stage, micro-batch, sequence parallel, recomputing,
        checkpoints, monitoring) may change from one start of a run to the next.
        """
        return digest(weight_shaping(self))


def weight_shaping(config: RunConfig) -> dict[str, Any]:
    """The part of a config that a run may not change once it has begun."""
    train = plain(config.train)
    for execution in ("zero", "micro_batch_size", "sequence_parallel", "checkpoint", "guard"):
        del train[execution]
    if not config.train.batch_warmup:  # it came later: runs that began before it go on
        del train["batch_warmup"]
    if config.train.optimizer.kind == "adamw":  # as before there was another: runs that began then go on
        for option in MUON_OPTIONS:
            del train["optimizer"][option]
    data = plain(config.data)
    for execution in EXECUTION:
        del data[execution]
    return {"data": data, "model": model_shaping(config.model), "train": train}


def model_shaping(model: ModelConfig) -> dict[str, Any]:
    """What the model computes, not how."""
    return {key: value for key, value in model_said(model).items() if key not in MODEL_EXECUTION}


def model_said(model: ModelConfig) -> dict[str, Any]:
    """A model's config for a digest: without what came later and is at its default."""
    later = {
        item.name: item.default for item in dataclasses.fields(model) if item.name in MODEL_OPTIONS + MODEL_EXECUTION
    }
    return {key: value for key, value in plain(model).items() if key not in later or value != later[key]}


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a run's YAML file and applies `section.key=value` overrides. Raises Mistake with one line a user can act
    on."""
    import yaml
    from pydantic import TypeAdapter, ValidationError

    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise Mistake(
            f"{path}: no such config file; give the path of a YAML file, for example configs/quickstart.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"{path}: cannot be read as a config: {error}") from error
    except yaml.YAMLError as error:
        raise Mistake(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise Mistake(f"{path}: a run's config is a mapping with the keys {', '.join(_fields(RunConfig))}")
    for override in overrides:
        _override(tree, override)
    try:
        config = TypeAdapter(RunConfig).validate_python(tree)
    except ValidationError as error:
        raise Mistake(f"{path}: {_first_problem(error.errors())}") from None
    check(config)
    return config


def check(config: RunConfig) -> None:
    """Raises Mistake where the parts of a config do not fit each other, before anything is started."""
    if not NAME.fullmatch(config.name):
        raise Mistake(f"name: '{config.name}' must be lower-case letters, digits, '.', '_' or '-', at most 64 of them")
    if "://" in config.workspace:
        raise Mistake(
            f"workspace: {config.workspace} is remote, which is not supported yet; give a folder that all nodes share"
        )
    check_remote(config)
    if not config.data.sources:
        raise Mistake("data.sources: give at least one source")
    if problem := problem_of([source.weight for source in config.data.sources]):
        raise Mistake(f"data.{problem}")
    for key in ("tokens", "global_batch_size", "micro_batch_size", "sequence_parallel"):
        _positive(f"train.{key}", getattr(config.train, key))
    _positive("train.checkpoint.every_steps", config.train.checkpoint.every_steps)
    _positive("train.checkpoint.keep_last", config.train.checkpoint.keep_last)
    _positive("data.sequence_length", config.data.sequence_length)
    check_model(config.model)
    check_batch_warmup(config)
    check_weight_stages(config)
    schedule = config.train.schedule
    if not 0 <= schedule.decay_fraction <= 1:
        raise Mistake(f"train.schedule.decay_fraction: {schedule.decay_fraction} must lie between 0 and 1")
    if schedule.warmup_steps > config.total_steps:
        raise Mistake(
            f"train.schedule.warmup_steps: {schedule.warmup_steps} is more than the run's {config.total_steps} steps; "
            "lower it or raise train.tokens"
        )
    check_sequence_parallel(config)
    check_batch(config.train, config.world_size)
    check_zero(config)
    check_guard(config.train.guard)


def check_remote(config: RunConfig) -> None:
    """Raises Mistake for a URL with secrets in it, and for limits that only a remote makes sense of."""
    if config.remote is not None:
        if any(one in "*[]" or not one.isprintable() for one in config.remote):  # a store would remove what matches
            raise Mistake(f"remote: {config.remote!r} must be without *, [ and ], which stores read as patterns")
        parts = urlsplit(config.remote)
        if parts.query or "@" in parts.netloc:
            raise Mistake(
                "remote: give a plain URL such as s3://bucket/prefix; user, password and keys are read from the "
                "store's environment variables"
            )
        if not REMOTE.fullmatch(config.remote):
            raise Mistake(
                f"remote: {config.remote} is no place that is the same for every process; give a URL such as "
                "s3://bucket/prefix or file:///mnt/durable, or a path from the root"
            )
    if config.data.cache_bytes is not None:
        _positive("data.cache_bytes", config.data.cache_bytes)
    for key in ("cache_bytes", "cache_folder"):
        if getattr(config.data, key) is not None and config.remote is None:
            raise Mistake(f"data.{key}: needs remote, the place that shards are read from")
    keep = config.train.checkpoint
    if keep.keep_local is not None:
        _positive("train.checkpoint.keep_local", keep.keep_local)
        if config.remote is None or keep.keep_local > keep.keep_last:
            raise Mistake(
                f"train.checkpoint.keep_local: {keep.keep_local} needs remote, and is at most "
                f"train.checkpoint.keep_last, {keep.keep_last}"
            )
    if keep.upload_grace_s < 0:
        raise Mistake(f"train.checkpoint.upload_grace_s: {keep.upload_grace_s} must not be negative")


def check_zero(config: RunConfig) -> None:
    """Raises Mistake for what DeepSpeed does not take together."""
    train, zero, world_size = config.train, config.train.zero, config.world_size
    muon = train.optimizer.kind == "muon"
    off = ZeroConfig(stage=zero.stage)
    for key in ("offload_param", "zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_gradients"):
        if zero.stage != 3 and getattr(zero, key) != getattr(off, key):
            raise Mistake(f"train.zero.{key}: needs train.zero.stage=3, but the stage is {zero.stage}")
    for key in ("zero_quantized_weights", "zero_quantized_gradients"):
        if getattr(zero, key) and not config.cluster.gpus_per_node:
            raise Mistake(f"train.zero.{key}: its kernels need a GPU, but cluster.gpus_per_node is 0")
        if getattr(zero, key) and train.batch_warmup:
            raise Mistake(
                f"train.zero.{key}: not with train.batch_warmup: gradients of both together were never compared with "
                "plain ones; choose one of them"
            )
    if zero.offload_optimizer != "none" and zero.stage == 0:
        raise Mistake("train.zero.offload_optimizer: needs train.zero.stage=1 or more: stage 0 shards nothing")
    if zero.reduce_bucket_size is not None:
        _positive("train.zero.reduce_bucket_size", zero.reduce_bucket_size)
    _positive("train.zero.zero_hpz_partition_size", zero.zero_hpz_partition_size)
    if world_size % zero.zero_hpz_partition_size:
        raise Mistake(
            f"train.zero.zero_hpz_partition_size: {zero.zero_hpz_partition_size} must divide "
            f"the run's {world_size} ranks"
        )
    if muon and train.optimizer.gradient_clipping:
        raise Mistake(
            "train.optimizer.gradient_clipping: set it to 0 with train.optimizer.kind=muon: DeepSpeed would clip the "
            "orthogonalised updates, whose size is fixed, and not the gradients"
        )
    for key in ("offload_optimizer", "zero_quantized_gradients"):
        if muon and getattr(zero, key) != getattr(off, key):
            raise Mistake(f"train.zero.{key}: not with train.optimizer.kind=muon; choose one of them")


def check_guard(guard: GuardConfig) -> None:
    """Raises Mistake for limits that could not be kept."""
    _positive("train.guard.window_steps", guard.window_steps)
    _positive("train.guard.skip_steps", guard.skip_steps)
    for key in ("loss_deviations", "grad_norm_deviations", "max_rollbacks"):
        if getattr(guard, key) < 0:
            raise Mistake(f"train.guard.{key}: {getattr(guard, key)} must not be negative; 0 turns it off")
    if not 0 < guard.step_timeout_s <= guard.start_timeout_s:
        raise Mistake(
            f"train.guard.step_timeout_s: {guard.step_timeout_s} must be more than 0, "
            f"and not above train.guard.start_timeout_s, {guard.start_timeout_s}"
        )


def check_model(model: ModelConfig) -> None:
    """Raises Mistake if no such model can be built."""
    for key in ("layers", "width", "heads", "recompute_every"):
        _positive(f"model.{key}", getattr(model, key))
    for key in ("loss_chunk_size", "base_width"):
        if getattr(model, key) is not None:
            _positive(f"model.{key}", getattr(model, key))
    if model.width % model.heads or (model.width // model.heads) % 2:
        raise Mistake(f"model.heads: width {model.width} over {model.heads} heads must give an even, whole head size")
    if model.kv_heads is not None and (model.kv_heads < 1 or model.heads % model.kv_heads):
        raise Mistake(
            f"model.kv_heads: {model.heads} heads cannot be shared by {model.kv_heads} key-value heads evenly"
        )
    if model.logit_soft_cap is not None and model.logit_soft_cap <= 0:
        raise Mistake(f"model.logit_soft_cap: {model.logit_soft_cap} must be more than 0; leave it out for none")
    if model.z_loss < 0:
        raise Mistake(f"model.z_loss: {model.z_loss} must not be negative; 0 turns it off")


def batch_sizes(train: TrainConfig) -> dict[str, int]:
    """The global batch sizes of a run in their order, each by its key."""
    stages = {
        f"train.batch_warmup.{at}.global_batch_size": stage.global_batch_size
        for at, stage in enumerate(train.batch_warmup)
    }
    return {**stages, "train.global_batch_size": train.global_batch_size}


def check_sequence_parallel(config: RunConfig) -> None:
    """Raises Mistake if ranks cannot share sequences and heads evenly."""
    peers, model, length = config.train.sequence_parallel, config.model, config.data.sequence_length
    kv_heads = model.kv_heads or model.heads
    if model.heads % peers:
        raise Mistake(f"train.sequence_parallel: {peers} ranks cannot share model.heads, {model.heads}, evenly")
    if kv_heads % peers and peers % kv_heads:
        raise Mistake(
            f"train.sequence_parallel: {peers} ranks cannot share model.kv_heads, {kv_heads}; one must divide the other"
        )
    if length % peers:
        raise Mistake(f"train.sequence_parallel: {peers} ranks cannot share data.sequence_length, {length}, evenly")


def check_batch(train: TrainConfig, world_size: int) -> None:
    """Raises Mistake if a global batch does not divide evenly over ranks and micro-batches."""
    if world_size % train.sequence_parallel:
        raise Mistake(
            f"train.sequence_parallel: {train.sequence_parallel} must divide the {world_size} ranks "
            "(cluster.nodes × cluster.processes_per_node)"
        )
    data_ranks, peers = train.data_ranks(world_size), train.sequence_parallel
    at_once = data_ranks * train.micro_batch_size
    ranks = f"{data_ranks} × {peers} ranks that share sequences" if peers > 1 else f"{world_size} ranks"
    for key, size in batch_sizes(train).items():
        if size % at_once:
            below = size // at_once * at_once
            fits = [fitting for fitting in (below, below + at_once) if fitting]
            raise Mistake(
                f"{key}: {size} is not divisible by {ranks} × micro-batch "
                f"{train.micro_batch_size} = {at_once}; the nearest that fit: {', '.join(map(str, fits))}"
            )


def check_batch_warmup(config: RunConfig) -> None:
    """Raises Mistake if the stages of batch warm-up do not grow, or are all of the run."""
    for at, stage in enumerate(config.train.batch_warmup):
        _positive(f"train.batch_warmup.{at}.global_batch_size", stage.global_batch_size)
        _positive(f"train.batch_warmup.{at}.tokens", stage.tokens)
    for (key, size), (next_key, next_size) in itertools.pairwise(batch_sizes(config.train).items()):
        if size >= next_size:
            raise Mistake(f"{key}: {size} must be less than {next_key}, {next_size}: batches grow")
    batches = config.batches
    warmup_tokens = batches.first(sum(stage.steps for stage in batches.stages)) * config.data.sequence_length
    if warmup_tokens >= config.train.tokens:
        raise Mistake(
            f"train.batch_warmup: its stages take {warmup_tokens} tokens, and the whole run has only "
            f"{config.train.tokens}; shorten them or raise train.tokens"
        )


def check_weight_stages(config: RunConfig) -> None:
    """Raises Mistake if a stage of the sources' weights is lost when it is rounded to whole blocks of the mixture."""
    num_sequences = config.batches.first(config.total_steps)
    stages = mixes([source.weight for source in config.data.sources])
    ends = [*first_blocks(stages, num_sequences)[1:], -(-num_sequences // BLOCK)]
    for mix, first, end in zip(stages, first_blocks(stages, num_sequences), ends, strict=True):
        if first >= end:
            raise Mistake(
                f"data.sources: the weights that begin at {mix.start} do not hold for one block of {BLOCK} sequences, "
                f"and the run has {num_sequences} sequences; move the stages apart or raise train.tokens"
            )


def changed_keys(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Dotted keys whose values differ, as `key: before -> after`, for two trees of plain values."""
    flat_before, flat_after = dict(_flat(before)), dict(_flat(after))
    keys = sorted(flat_before.keys() | flat_after.keys())
    return [
        f"{key}: {flat_before.get(key)} -> {flat_after.get(key)}"
        for key in keys
        if flat_before.get(key) != flat_after.get(key)
    ]


def _flat(tree: Any, prefix: str = "") -> typing.Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else key)
    elif isinstance(tree, list | tuple):
        for at, value in enumerate(tree):
            yield from _flat(value, f"{prefix}.{at}")
    else:
        yield prefix, tree


def _positive(key: str, value: int) -> None:
    if value < 1:
        raise Mistake(f"{key}: {value} must be at least 1")


def _override(tree: dict[str, Any], override: str) -> None:
    """Sets one `section.key=value` in a tree of dicts and lists."""
    import yaml

    key, equals, text = override.partition("=")
    if not equals or not key:
        raise Mistake(f"'{override}' is not of the form section.key=value, for example train.optimizer.lr=3e-4")
    *parents, last = key.split(".")
    node: Any = tree
    for parent in parents:
        if isinstance(node, list):
            node = node[_index(node, parent, key)]
            continue
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict | list):
            raise Mistake(f"{key}: '{parent}' holds {node!r}, which has no keys of its own")
    value = yaml.safe_load(text)
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    else:
        node[last] = value


def _index(items: list[Any], text: str, key: str) -> int:
    if not text.isdigit() or int(text) >= len(items):
        raise Mistake(f"{key}: '{text}' is not a place in a list of {len(items)} (the first is 0)")
    return int(text)


UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")
"""What pydantic calls it."""


def _first_problem(errors: Sequence[Any]) -> str:
    """One line about pydantic's first complaint: the key, what is wrong, and the nearest key where one is unknown.

    About a value that may have one of several types it complains once for each: the complaint that goes deepest is that
    of the type that was meant.
    """
    first = _keys(errors[0]["loc"])
    same = (one for one in errors if _keys(one["loc"])[: len(first)] == first)
    error = max(same, key=lambda one: (len(one["loc"]), one["type"] in UNKNOWN_KEY))
    location = _keys(error["loc"])
    key = ".".join(location)
    if error["type"] in UNKNOWN_KEY:
        known = _known_keys(RunConfig, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{key}: missing; add it"
    return f"{key}: {error['msg']}, but the value is {error['input']!r}"


def _fields(cls: type) -> list[str]:
    return [item.name for item in dataclasses.fields(cls)]


def _known_keys(cls: type, location: Sequence[str]) -> list[str]:
    """The keys that the dataclass at a place in the tree has."""
    node: Any = cls
    for part in location:
        node = node if part.isdigit() else typing.get_type_hints(node)[part]
        node = _dataclass_inside(node)
    return _fields(node)


def _keys(location: Sequence[str | int]) -> list[str]:
    """Where a value stands in the tree: pydantic's location without the types that it names behind the key of a value
    that may have several."""
    keys: list[str] = []
    node: Any = RunConfig
    several = False
    for part in map(str, location):
        if several:
            several = False
            continue
        keys.append(part)
        if not part.isdigit() and dataclasses.is_dataclass(node) and part in typing.get_type_hints(node):
            hint = typing.get_type_hints(node)[part]
            several = len([one for one in _arms(hint) if one is not types.NoneType]) > 1
            node = _dataclass_inside(hint)
    return keys


def _arms(hint: Any) -> tuple[Any, ...]:
    """The types that a value may have."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _dataclass_inside(hint: Any) -> Any:
    """`tuple[Source, ...]` -> Source, `Promote | None` -> Promote; the hint itself if there is none."""
    if dataclasses.is_dataclass(hint):
        return hint
    inside = (_dataclass_inside(part) for part in typing.get_args(hint))
    return next((part for part in inside if dataclasses.is_dataclass(part)), hint)
