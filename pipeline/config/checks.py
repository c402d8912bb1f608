"""Do the parts fit each other? What is wrong is a Mistake of one line that begins with the key."""

import itertools
import math
import re
from urllib.parse import urlsplit

from data_prep.config import check_config, check_name
from data_prep.errors import DataMistake
from data_prep.weights import BLOCK, first_blocks, mixes
from pipeline.config.tree import GuardConfig, ModelConfig, OptimizerConfig, RunConfig, TrainConfig, ZeroConfig
from pipeline.errors import Mistake

REMOTE = re.compile(r"(file://|local://)?/+[^/].*|(?!file:|local:)[a-z0-9+.-]+://[^/].*")
"""A path from the root, or a URL with a host or bucket: what is relative is another place for each working folder."""

MAX_SEED = 2**63 - 1
"""Keys of 64 bits are made of it, and each rank adds its number."""
MAX_TIMEOUT_S = 7 * 86_400.0
"""A week. Ranks wait for one another in a collective for a day more (`PATIENCE` in `pipeline/train/engine.py`)."""


def check(config: RunConfig) -> None:
    """Raises Mistake where the parts of a config do not fit each other, before anything is started."""
    check_data(config)
    if "://" in config.workspace:
        raise Mistake(
            f"workspace: {config.workspace} is remote, which is not supported yet; give a folder that all nodes share"
        )
    for key in ("nodes", "processes_per_node"):
        _positive(f"cluster.{key}", getattr(config.cluster, key))
    check_remote(config)
    for key in ("tokens", "global_batch_size", "micro_batch_size", "sequence_parallel"):
        _positive(f"train.{key}", getattr(config.train, key))
    _positive("train.checkpoint.every_steps", config.train.checkpoint.every_steps)
    _positive("train.checkpoint.keep_last", config.train.checkpoint.keep_last)
    batch_tokens = config.train.global_batch_size * config.data.sequence_length
    if batch_tokens > config.train.tokens:
        raise Mistake(
            f"train.tokens: {config.train.tokens} is less than one batch, train.global_batch_size × "
            f"data.sequence_length = {config.train.global_batch_size} × {config.data.sequence_length} = {batch_tokens} "
            "tokens; raise it, or lower one of these"
        )
    check_model(config.model)
    check_batch_warmup(config)
    check_weight_stages(config)
    check_optimizer(config.train.optimizer)
    schedule = config.train.schedule
    if schedule.warmup_steps < 0:
        raise Mistake(f"train.schedule.warmup_steps: {schedule.warmup_steps} must not be negative; 0 is no warm-up")
    for key in ("final_lr_fraction", "decay_fraction"):
        if not 0 <= getattr(schedule, key) <= 1:
            raise Mistake(f"train.schedule.{key}: {getattr(schedule, key)} must lie between 0 and 1")
    if not 0 <= config.train.seed <= MAX_SEED:
        raise Mistake(f"train.seed: {config.train.seed} must lie between 0 and {MAX_SEED}")
    if schedule.warmup_steps > config.total_steps:
        raise Mistake(
            f"train.schedule.warmup_steps: {schedule.warmup_steps} is more than the run's {config.total_steps} steps; "
            "lower it or raise train.tokens"
        )
    check_sequence_parallel(config)
    check_batch(config.train, config.world_size)
    check_zero(config)
    check_guard(config.train.guard)
    check_heldout(config)


def check_heldout(config: RunConfig) -> None:
    """Raises Mistake if checkpoints would be scored on documents that nobody holds out: training would come first, and
    the corpus that it is pinned to could not be mended under the run's name."""
    if config.data.heldout.fraction > 0:
        return
    if config.promote is not None:
        raise Mistake(
            "data.heldout.fraction: 0 holds out no documents, on which promote decides; raise it, for example to "
            "0.005, or give promote=null"
        )
    if config.suites:
        raise Mistake(
            "evaluate.suites: heldout scores held-out documents, and data.heldout.fraction is 0, which holds out none; "
            "raise it, for example to 0.005, or leave evaluate.suites out"
        )


def check_data(config: RunConfig) -> None:
    """Raises Mistake for what preparation would refuse, before anything is planned or submitted."""
    try:
        check_name(config.name)
    except DataMistake as error:
        raise Mistake(str(error)) from error
    try:
        check_config(config.data)
    except DataMistake as error:
        raise Mistake(f"data.{error}") from error


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
    if not keep.upload_grace_s >= 0:
        raise Mistake(f"train.checkpoint.upload_grace_s: {keep.upload_grace_s} must not be negative")


def check_zero(config: RunConfig) -> None:
    """Raises Mistake for what DeepSpeed does not take together."""
    train, zero = config.train, config.train.zero
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
    if zero.stage == 3 and config.model.compile == "model":
        raise Mistake(
            "model.compile: model is one graph of all blocks, for which train.zero.stage=3 would gather all weights at "
            "once; use block"
        )
    if zero.offload_optimizer != "none" and zero.stage == 0:
        raise Mistake("train.zero.offload_optimizer: needs train.zero.stage=1 or more: stage 0 shards nothing")
    if zero.reduce_dtype == "bf16" and train.precision != "bf16":
        raise Mistake("train.zero.reduce_dtype: bf16 needs train.precision=bf16; leave it out")
    if zero.reduce_bucket_size is not None:
        _positive("train.zero.reduce_bucket_size", zero.reduce_bucket_size)
    if muon and train.optimizer.gradient_clipping:
        raise Mistake(
            "train.optimizer.gradient_clipping: set it to 0 with train.optimizer.kind=muon: DeepSpeed would clip the "
            "orthogonalised updates, whose size is fixed, and not the gradients"
        )
    for key in ("offload_optimizer", "zero_quantized_gradients"):
        if muon and getattr(zero, key) != getattr(off, key):
            raise Mistake(f"train.zero.{key}: not with train.optimizer.kind=muon; choose one of them")


def check_optimizer(optimizer: OptimizerConfig) -> None:
    """Raises Mistake for rates that train nothing, or away from the goal. Comparisons are such that nan fails them."""
    for key in ("lr", "muon_lr"):
        if not 0 < getattr(optimizer, key) < math.inf:
            raise Mistake(f"train.optimizer.{key}: {getattr(optimizer, key)} must be more than 0, and finite")
    for key in ("weight_decay", "eps", "gradient_clipping"):
        if not 0 <= getattr(optimizer, key) < math.inf:
            raise Mistake(f"train.optimizer.{key}: {getattr(optimizer, key)} must be 0 or more, and finite")
    for key, rates in (("betas", optimizer.betas), ("muon_momentum", (optimizer.muon_momentum,))):
        for rate in rates:
            if not 0 <= rate < 1:
                raise Mistake(f"train.optimizer.{key}: {rate} must be at least 0 and below 1")


def check_guard(guard: GuardConfig) -> None:
    """Raises Mistake for limits that could not be kept."""
    _positive("train.guard.window_steps", guard.window_steps)
    _positive("train.guard.skip_steps", guard.skip_steps)
    for key in ("loss_deviations", "grad_norm_deviations", "max_rollbacks"):
        if not getattr(guard, key) >= 0:
            raise Mistake(f"train.guard.{key}: {getattr(guard, key)} must not be negative; 0 turns it off")
    if not 0 < guard.step_timeout_s <= guard.start_timeout_s:
        raise Mistake(
            f"train.guard.step_timeout_s: {guard.step_timeout_s} must be more than 0, "
            f"and not above train.guard.start_timeout_s, {guard.start_timeout_s}"
        )
    if guard.start_timeout_s > MAX_TIMEOUT_S:
        raise Mistake(f"train.guard.start_timeout_s: {guard.start_timeout_s} must be at most {MAX_TIMEOUT_S:.0f}")


def check_model(model: ModelConfig) -> None:
    """Raises Mistake if no such model can be built. Comparisons are such that nan fails them."""
    for key in ("layers", "width", "heads", "recompute_every"):
        _positive(f"model.{key}", getattr(model, key))
    for key in ("mlp_width", "loss_chunk_size", "base_width"):
        if getattr(model, key) is not None:
            _positive(f"model.{key}", getattr(model, key))
    if model.width % model.heads or (model.width // model.heads) % 2:
        raise Mistake(f"model.heads: width {model.width} over {model.heads} heads must give an even, whole head size")
    if model.kv_heads is not None and (model.kv_heads < 1 or model.heads % model.kv_heads):
        raise Mistake(
            f"model.kv_heads: {model.heads} heads cannot be shared by {model.kv_heads} key-value heads evenly"
        )
    for key, value in (("rope_theta", model.rope_theta), ("norm_eps", model.norm_eps)):
        if not 0 < value < math.inf:
            raise Mistake(f"model.{key}: {value} must be more than 0, and finite")
    if model.logit_soft_cap is not None and not 0 < model.logit_soft_cap < math.inf:
        raise Mistake(f"model.logit_soft_cap: {model.logit_soft_cap} must be more than 0; leave it out for none")
    if not 0 <= model.z_loss < math.inf:
        raise Mistake(f"model.z_loss: {model.z_loss} must not be negative, and finite; 0 turns it off")


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
    """Raises Mistake if a global batch does not divide evenly over ranks and micro-batches, or the ranks over the
    groups that the config asks for."""
    together = train.zero.zero_hpz_partition_size
    _positive("train.zero.zero_hpz_partition_size", together)
    if world_size % together:
        raise Mistake(f"train.zero.zero_hpz_partition_size: {together} must divide the run's {world_size} ranks")
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


def _positive(key: str, value: int) -> None:
    if value < 1:
        raise Mistake(f"{key}: {value} must be at least 1")
