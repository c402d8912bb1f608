"""The tree itself: what can be set, and what of it makes a run another run.

A model's or a run's digest is of what shapes the trained weights. Fields that came after runs had begun leave no trace
in it while they are at their defaults.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.config import ClusterConfig
from data_prep.config import EXECUTION, CorpusConfig
from data_prep.files import digest, plain
from pipeline.batches import Batches, BatchStage
from pipeline.promote.config import PromoteConfig

FORBID = {"extra": "forbid"}


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
    """What training compiles by torch.compile: nothing; each block, and the loss; or all blocks as one graph, and the
    loss."""

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


MAX_REDUCE_BUCKET = 500_000_000
"""DeepSpeed's own `reduce_bucket_size`. It allocates all of it, however small the model."""


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
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """What gradients are averaged over the ranks in where `train.precision` is bf16: `fp32` is exact, `bf16` moves half
    the bytes and rounds each mean."""
    zero_hpz_partition_size: int = 1
    """ZeRO++: ranks, those of a node, that hold a second copy of stage 3's parameters between them; 1 turns it off."""
    zero_quantized_weights: bool = False
    """ZeRO++: stage 3 gathers weights as int8. Not exact."""
    zero_quantized_gradients: bool = False
    """ZeRO++: stage 3 reduces gradients as int4. Not exact; between nodes DeepSpeed 0.19.8 reads them as fp16, by its
    source: try it with `doctor`."""

    def reduce_bucket(self, num_parameters: int) -> int:
        """Gradient elements that are reduced at once, in a model of so many."""
        return self.reduce_bucket_size or min(num_parameters, MAX_REDUCE_BUCKET)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    __pydantic_config__ = FORBID

    every_steps: int = 500
    """Steps between checkpoints; the first step (0) and the last are always saved."""
    keep_last: int = 3
    """Checkpoints kept beside an alias's, the two promoted to it before, and those still to be evaluated. Only
    `headrace run` removes others: `headrace train` and a job of `headrace submit` know nothing of evaluations, and keep
    all that they save."""
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
    """Good steps, on the same mix of sources, that a step is compared with; none is called a spike before half as many
    are there."""
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

    def accumulation(self, world_size: int) -> int:
        """Micro-batches that each rank takes in a step of the full global batch. The batch must fit the world
        (`check_batch`)."""
        return self.global_batch_size // (self.micro_batch_size * self.data_ranks(world_size))

    @property
    def reduce_dtype(self) -> Literal["fp32", "bf16"]:
        """What gradients travel in. ZeRO++'s int4 is made of what the model computes in: its kernels read two bytes."""
        if self.precision == "fp32" or self.zero.zero_quantized_gradients:
            return self.precision
        return self.zero.reduce_dtype


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    __pydantic_config__ = FORBID

    suites: tuple[Literal["heldout"], ...] | None = None
    """What each checkpoint is scored on; `[]` is nothing. If not given, `[heldout]`, or `[]` where
    `data.heldout.fraction` is 0."""


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
    def suites(self) -> tuple[str, ...]:
        """What each checkpoint is scored on."""
        if self.evaluate.suites is not None:
            return self.evaluate.suites
        return ("heldout",) if self.data.heldout.fraction > 0 else ()

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
