"""Memory of one rank, part by part, as arithmetic on the config: what autograd keeps of our layers, and what DeepSpeed
keeps around them at each ZeRO stage.

    peak = weights + gradients + optimizer + max(activations + logits + what is held beside them,
                                                 what reduction and update need when they are gone)

Two things were found by measuring, not in papers, and both cost gigabytes: DeepSpeed's reduction bucket takes its full
size, by default 500 million elements, however small the model, so ours is no larger than the model; and its wrapper
around bf16 at stage 1 keeps fp32 gradients whole on every rank. The sharded terms are those of Rajbhandari et al.
(2020), figure 1, with gradients in fp32. Checked in tests/pipeline/test_plan_memory.py: activations against the tensors
that autograd saves, states against live engines of one and of two ranks.
"""

from dataclasses import dataclass, replace
from typing import Literal

from pipeline.config import ModelConfig, TrainConfig
from pipeline.plan.shape import count_parameters, key_value_width

Stage = Literal[0, 1, 2, 3]
STAGES: tuple[Stage, ...] = (0, 1, 2, 3)
Precision = Literal["fp32", "bf16"]
ELEMENT_BYTES = {"fp32": 4, "bf16": 2}

# DeepSpeed 0.19's own, in elements. The first is what it reduces at once where no bucket is configured: at stage 0, and
# by its wrapper around bf16 at stage 1.
REDUCED_AT_ONCE = 500_000_000
MAX_LIVE_PARAMETERS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one rank at its fullest moment."""

    weights: int
    gradients: int
    optimizer: int
    """fp32 master weights and AdamW's two moments."""
    activations: int
    """What the blocks keep for backward, of one micro-batch, and what making a block again needs beyond the logits'
    room."""
    logits: int
    """Three fp32 copies of (positions at once × vocabulary): the log-probabilities, and two gradients on the way back
    through the loss. In chunks also the chunk's logits, and the output layer's gradient as it adds up."""
    buffers: int
    """Buckets and gathered weights that stand beside the activations, and what the update needs beyond the room that
    activations and logits leave when they are freed."""
    host: int
    """Beside the device: what is offloaded, and the copy that a checkpoint is written from."""

    @property
    def total(self) -> int:
        """On the device."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.buffers


@dataclass(frozen=True, kw_only=True)
class States:
    """What a rank holds whatever its micro-batch, in bytes."""

    weights: int
    gradients: int
    """From the second micro-batch of a step on; with a single one they come as the activations go."""
    optimizer: int
    held: int
    """Buffers that exist while the activations do."""
    update: int
    """What reduction and optimizer step need at once, when the activations are gone."""
    host: int = 0
    """What is offloaded to host memory."""


@dataclass(frozen=True, kw_only=True)
class Forward:
    """A rank's forward pass over one micro-batch: what is arithmetic on it takes this."""

    model: ModelConfig
    micro_batch_size: int
    sequence_length: int
    precision: Literal["fp32", "bf16"]
    gpu: bool = False
    peers: int = 1
    """Ranks that share its sequences, each a slice of the positions."""

    @property
    def positions(self) -> int:
        """Of all sequences together, this rank's."""
        return self.micro_batch_size * self.sequence_length // self.peers

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.precision]

    @property
    def key_value_width(self) -> int:
        """Of the keys or values of a position in attention: where key heads are fewer than peers, each peer has one."""
        copies = max(1, self.peers // (self.model.kv_heads or self.model.heads))
        return copies * key_value_width(self.model)


@dataclass(frozen=True, kw_only=True)
class BlockActivations:
    """Bytes that one block keeps of one micro-batch."""

    input: int
    """The residual stream as it comes in."""
    attention: int
    """Its norm and attention."""
    mlp: int
    """Its norm and the MLP."""


def block_activations(one: Forward) -> BlockActivations:
    """For `pipeline.model.layers` as they stand. Attention runs fused: no T × T scores.

    GPU and CPU differ in two kernels: RMSNorm is one kernel on a GPU and keeps its input, on a CPU it is composed and
    keeps two fp32 tensors; attention's output has to be copied on a CPU to lie as the next layer reads it.

    Peers that share sequences keep their share of positions and, inside attention, of heads, which is as much.
    """
    model, positions = one.model, one.positions
    wide = positions * model.width * one.element_bytes
    norm = _norm_bytes(one, model.width, rows=positions)
    qkv_input = out_input = mlp_input = query = wide
    keys_and_values = 2 * positions * one.key_value_width * one.element_bytes
    attention_output = 0 if one.gpu and one.peers == 1 else wide  # on a GPU it is `out_input`, if not sent to peers
    log_sum_exp = 4 * positions * model.heads
    gates = 4 * positions * model.mlp_hidden * one.element_bytes  # gate, silu(gate), up and their product
    qk_norms = 0
    if model.qk_norm:
        qk_norms = _norm_bytes(one, model.width, rows=positions * model.heads) + _norm_bytes(
            one, key_value_width(model), rows=positions * (model.kv_heads or model.heads)
        )
    return BlockActivations(
        input=wide,
        attention=norm + qkv_input + qk_norms + query + keys_and_values + attention_output + log_sum_exp + out_input,
        mlp=norm + mlp_input + gates,
    )


def _norm_bytes(one: Forward, width: int, *, rows: int) -> int:
    wide = one.positions * width * (one.element_bytes if one.gpu else 2 * 4)
    return wide + 4 * rows


def activation_bytes(one: Forward) -> int:
    """What autograd saves of a forward pass but for the logits. Peers have whole rows of tokens, and whole masks."""
    model, block, again = one.model, block_activations(one), blocks_again(one.model)
    as_recomputed = block.input + (block.mlp if model.recompute == "attention" else 0)
    blocks = again * as_recomputed + (model.layers - again) * (block.attention + block.mlp)
    ids = 8 * one.micro_batch_size * one.sequence_length + 8 * one.positions  # tokens and targets
    last_norm = _norm_bytes(one, model.width, rows=one.positions)
    output_input = one.positions * model.width * one.element_bytes
    rotary = 4 * one.sequence_length // one.peers * (model.width // model.heads)
    return blocks + last_norm + output_input + ids + rotary + mask_bytes(one)


def mask_bytes(one: Forward) -> int:
    """The document mask, one for all blocks: on a CPU a number for each pair of positions; on a GPU each position's
    document, and four lists of which of 128 × 128 positions to look at."""
    if not one.gpu:
        return one.micro_batch_size * one.sequence_length**2 * one.element_bytes
    return one.micro_batch_size * (8 * one.sequence_length + 4 * 4 * (-(-one.sequence_length // 128)) ** 2)


def recomputed_bytes(one: Forward) -> int:
    """What backward makes again, one block at a time, when the logits are gone; with a whole block also the first
    gradient inside its MLP, which comes while all of it is there."""
    block = block_activations(one)
    gradient = one.positions * one.model.mlp_hidden * one.element_bytes
    whole = block.attention + block.mlp + gradient
    return {"none": 0, "attention": block.attention, "block": whole}[one.model.recompute]


def blocks_again(model: ModelConfig) -> int:
    """Blocks of which something is computed again."""
    return {"none": 0, "attention": model.layers, "block": -(-model.layers // model.recompute_every)}[model.recompute]


def logit_bytes(positions: int, vocab_size: int) -> int:
    """One fp32 copy of the logits; the log-probabilities that are kept for backward are one."""
    return 4 * positions * vocab_size


def loss_bytes(one: Forward, vocab_size: int) -> int:
    """The most that the output layer and the loss hold."""
    if one.model.loss_chunk_size is None:
        return 3 * logit_bytes(one.positions, vocab_size)
    at_once, element = min(one.model.loss_chunk_size, one.positions), one.element_bytes
    chunk = 3 * logit_bytes(at_once, vocab_size) + element * at_once * vocab_size
    gradients = (4 + element) * vocab_size * one.model.width + element * one.positions * one.model.width
    return chunk + gradients


def state_bytes(
    model: ModelConfig, vocab_size: int, train: TrainConfig, stage: Stage, world_size: int, *, gpu: bool
) -> States:
    """What weights, gradients, optimizer and communication take on one rank, and what of it is offloaded."""
    parameters = count_parameters(model, vocab_size)
    states = unmoved_bytes(model, vocab_size, train, stage, world_size, gpu=gpu)
    element, share = ELEMENT_BYTES[train.precision], -(-parameters.total // world_size)
    if stage == 3 and (whole := train.zero.zero_hpz_partition_size) > 1:  # a second copy between the ranks of a node
        states = replace(states, weights=states.weights + element * parameters.total // whole)
    if train.optimizer.kind == "muon":
        states = with_muon(states, parameters.matrices, train.precision, stage, world_size)
    if stage >= 1 and train.zero.offload_optimizer == "cpu":
        # Its gradients in fp32 are there too; below stage 3 also the updated weights, and room for single tensors.
        beside = 0 if stage == 3 else element * share + 8 * parameters.largest
        states = replace(states, optimizer=0, host=states.optimizer + 4 * share + beside)
    if stage == 3 and train.zero.offload_param == "cpu":
        states = replace(states, weights=states.weights - element * share, host=states.host + element * share)
    return states


def with_muon(states: States, matrices: int, precision: Precision, stage: Stage, world_size: int) -> States:
    """Muon has a single moment of the blocks' matrices. DeepSpeed makes that a saving up to stage 2 in bf16, and at
    stage 0. Elsewhere it keeps whole moments or copies of them and orthogonalises beside: AdamW's share and room for
    the matrices is within 10 % of two ranks, and half too much for one."""
    if stage == 0 or (precision == "bf16" and stage < 3):
        return replace(states, optimizer=states.optimizer - 4 * matrices // (1 if stage == 0 else world_size))
    return replace(states, update=states.update + 4 * matrices)


def unmoved_bytes(
    model: ModelConfig, vocab_size: int, train: TrainConfig, stage: Stage, world_size: int, *, gpu: bool
) -> States:
    """Of AdamW, with nothing offloaded."""
    precision, offload = train.precision, train.zero.offload_optimizer == "cpu"
    sent = ELEMENT_BYTES[train.reduce_dtype]
    parameters = count_parameters(model, vocab_size)
    count, element = parameters.total, ELEMENT_BYTES[precision]
    converted = sent if sent != element else 0  # a copy of what is sent, if it is sent as something else
    share = -(-count // world_size)
    at_once = min(count, REDUCED_AT_ONCE)
    if stage == 0:  # nothing is sharded; reduction goes through a flat copy
        half = precision == "bf16"
        return States(
            weights=element * count,
            gradients=element * count,
            optimizer=(12 if half else 8) * count,  # fp32 weights are their own masters
            held=0,
            update=max((element + converted) * at_once, 4 * count if half else 0),  # the update is fed fp32 gradients
        )
    if stage == 1 and precision == "bf16" and not offload:
        # BF16_Optimizer: bf16 gradients are added to fp32 ones, whole on each rank, and freed one by one. All matrices
        # are one row, which DeepSpeed does not cut: a large one goes as it is, a small one is first laid beside the
        # vectors.
        return States(
            weights=2 * count,
            gradients=4 * count,
            optimizer=12 * share,
            held=0,
            update=(2 * count if sent == 2 else 0) + (4 * count if count <= REDUCED_AT_ONCE else 0),
        )
    # DeepSpeedZeroOptimizer and its stage 3.
    in_bucket = train.zero.reduce_bucket(count)
    bucket = (sent if stage == 3 else element) * in_bucket  # stage 3's is of what is sent
    flat, whole = sent * min(count, in_bucket), converted * min(count, in_bucket)
    if stage == 1:  # gradients move into the bucket and leave as flat copies: never both
        again = element * count + 4 * share if precision == "bf16" else 0  # of offloaded ones there are both
        return States(
            weights=element * count,
            gradients=element * count + again,
            optimizer=12 * share,
            held=bucket,
            update=bucket,
        )
    early = (whole if stage == 2 else flat) if count > in_bucket else 0  # a full one is reduced while backward goes on
    gathered = element * min(count, MAX_LIVE_PARAMETERS) if stage == 3 else 0
    if stage == 2:  # added up tensor by tensor in fp32; the bucket is gone when the optimizer steps
        update = bucket + (whole or 4 * parameters.largest if precision == "bf16" else 4 * share)
    else:
        by_gloo = 0 if gpu else flat  # its reduce-scatter works on a copy
        in_fp32 = 4 * min(count, in_bucket) // world_size if sent == 2 else 0
        update = bucket + max(by_gloo + max(flat, in_fp32), 4 * share)
    return States(
        weights=element * (share if stage == 3 else count),
        gradients=4 * share,
        optimizer=12 * share,
        held=bucket + gathered + early,
        update=update,
    )


def memory(
    model: ModelConfig,
    train: TrainConfig,
    sequence_length: int,
    vocab_size: int,
    world_size: int,
    *,
    stage: Stage,
    gpu: bool,
) -> Memory:
    """A rank's memory at a stage, which may be another than the config's."""
    states = state_bytes(model, vocab_size, train, stage, world_size, gpu=gpu)
    one = Forward(
        model=model,
        micro_batch_size=train.micro_batch_size,
        sequence_length=sequence_length,
        precision=train.precision,
        gpu=gpu,
        peers=train.sequence_parallel,
    )
    kept, again, logits = activation_bytes(one), recomputed_bytes(one), loss_bytes(one, vocab_size)
    activations = kept + max(0, again - logits)
    return Memory(
        weights=states.weights,
        gradients=states.gradients,
        optimizer=states.optimizer,
        activations=activations,
        logits=logits,
        buffers=max(states.held, states.update - activations - logits),
        host=states.host
        + (snapshot_bytes(model, vocab_size, train, stage, world_size) if train.checkpoint.asynchronous else 0),
    )


def checkpoint_bytes(model: ModelConfig, vocab_size: int, train: TrainConfig) -> int:
    """Size of one checkpoint's files over all ranks, at every ZeRO stage: fp32 masters, Adam's two moments or Muon's
    one, and `model.safetensors` beside them."""
    parameters = count_parameters(model, vocab_size)
    weights = ELEMENT_BYTES[train.precision] * parameters.total
    return weights + 12 * parameters.total - (4 * parameters.matrices if train.optimizer.kind == "muon" else 0)


def snapshot_bytes(model: ModelConfig, vocab_size: int, train: TrainConfig, stage: int, world_size: int) -> int:
    """Rank 0's copy of what it writes, while a checkpoint is written beside training: its share of the state, and the
    weights, which other ranks do not copy; at stage 3 each rank copies its part of them, for rank 0 to gather."""
    weights = ELEMENT_BYTES[train.precision] * count_parameters(model, vocab_size).total
    shared = checkpoint_bytes(model, vocab_size, train) - (0 if stage == 3 else weights)
    return weights + shared // world_size
