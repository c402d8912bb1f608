"""The training state under the run's own ZeRO config: are its gradients right, and does it come back from a checkpoint?

    plain autograd over the same batch, averaged ──┐
                                                   ├── differ by how much?
    DeepSpeed: one step, and what Adam was fed ────┘

What is unusual: the gradients are not asked of DeepSpeed, which answers differently at each stage, but read off the
optimizer's first moment. After the first step it is (1 - β) × the gradient that the optimizer was fed: reduced,
sharded, clipped, in whichever place. So what is compared is what trains.
"""

import hashlib
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.data.position import Position
from pipeline.doctor.checks import Difference, RoundTrip
from pipeline.doctor.patient import Patient
from pipeline.model.decoder import build, outline
from pipeline.train.checkpoint import Checkpoint, verify_checkpoint
from pipeline.train.elastic import MOMENTUM, state_tensors
from pipeline.train.engine import seed_rank, set_learning_rate, start_engine, train_step
from pipeline.train.saving import Saver, load, rng_state

END_OF_TEXT = 0
SHARD_ALL = {"stage3_param_persistence_threshold": 0}
"""Stage 3 leaves parameters of less than 100,000 numbers whole: in a small model that would be all."""


def engine_of(patient: Patient, train: TrainConfig, seed: int) -> Any:
    model = outline(patient.small.model, patient.vocab_size, END_OF_TEXT)
    engine = start_engine(model, replace(train, seed=seed), patient.world, zero=SHARD_ALL)
    whole = [name for name, one in engine.module.named_parameters() if getattr(one, "ds_persist", False)]
    assert not whole, f"kept whole at stage 3, which proves nothing of it: {whole}"
    return engine


def batch_of(patient: Patient, step: int) -> NDArray[Any]:
    """This rank's token ids of a step, (accumulation, B, T): noise, with an end of text now and then. Ranks that share
    sequences have the same."""
    train, length = patient.small.train, patient.small.data.sequence_length
    generator = np.random.default_rng([train.seed, step, train.data_rank(patient.world.rank)])
    return generator.integers(
        0, patient.vocab_size, (train.accumulation(patient.world.size), train.micro_batch_size, length)
    )


def take_step(engine: Any, patient: Patient, step: int) -> float:
    """Gives the global norm of the gradient."""
    set_learning_rate(engine, patient.small.train.optimizer.lr)
    _, norm, _ = train_step(engine, batch_of(patient, step))
    return norm


# --- gradients --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Gradients:
    """Plain data parallel's, by parameter, in fp64."""

    mean: dict[str, Tensor]
    """Over the global batch."""
    own: dict[str, Tensor]
    """Over this rank's part of it."""
    scale: dict[str, float]
    """The mean norm of a micro-batch's."""

    @property
    def norm(self) -> float:
        return math.sqrt(sum(float(one.square().sum()) for one in self.mean.values()))

    @property
    def norm_scale(self) -> float:
        return math.sqrt(sum(one**2 for one in self.scale.values()))


def compare_gradients(patient: Patient) -> Difference:
    """One step in DeepSpeed against plain autograd. Gradients are clipped to half their norm, if the run clips them."""
    plain = plain_gradients(patient)
    optimizer = patient.small.train.optimizer
    clipping = plain.norm / 2 if optimizer.gradient_clipping else 0.0
    clipped = clipping / (plain.norm + 1e-6) if clipping else 1.0
    train = replace(patient.small.train, optimizer=replace(optimizer, gradient_clipping=clipping))
    engine = engine_of(patient, train, train.seed)
    norm = take_step(engine, patient, 0)
    off: dict[str, Tensor] = {name: torch.zeros_like(one) for name, one in plain.mean.items()}
    seen = dict.fromkeys(plain.mean, 0)
    for name, start, fed in fed_gradients(engine, patient):
        expected = plain.mean[name].flatten().narrow(0, start, fed.numel())
        off[name].view(-1).narrow(0, start, fed.numel()).copy_(fed.double() / clipped - expected)
        seen[name] += fed.numel()
    shares = {name: float(one.norm()) / plain.scale[name] for name, one in off.items()}
    for name, numel in zip(seen, _summed(list(seen.values()), patient), strict=True):
        if numel != plain.mean[name].numel():  # no rank was fed this part of it
            shares[name] = math.inf
    tensor = max(shares, key=lambda name: shares[name] if math.isfinite(shares[name]) else math.inf)
    return Difference(
        worst=shares[tensor],
        tensor=tensor,
        norm=None if optimizer.kind == "muon" else abs(norm - plain.norm) / plain.norm_scale,
        excess=None
        if train.sequence_parallel > 1
        else excess(off, plain, norm / plain.norm if clipping else 1.0, patient),
        weights=replica_digest(engine),
    )


def plain_gradients(patient: Patient) -> Gradients:
    """By torch's autograd alone, micro-batch by micro-batch, added up and averaged in fp64."""
    precision = torch.bfloat16 if patient.small.train.precision == "bf16" else torch.float32
    small = patient.small
    model = build(small.model, patient.vocab_size, END_OF_TEXT, small.train.seed).to(patient.device, precision)
    named = dict(model.named_parameters())
    own = {name: torch.zeros_like(one, dtype=torch.float64) for name, one in named.items()}
    norms = dict.fromkeys(named, 0.0)
    batch = torch.from_numpy(batch_of(patient, 0)).to(patient.device)
    for tokens in batch:
        model.zero_grad()
        model(tokens, loss=True).total.backward()
        for name, parameter in named.items():
            assert parameter.grad is not None
            gradient = parameter.grad.double()
            own[name] += gradient / len(batch)
            norms[name] += float(gradient.norm()) / len(batch)
    mean = {name: one.clone() for name, one in own.items()}
    for one in mean.values():
        dist.all_reduce(one)
        one /= patient.world.size
    scales = [one / patient.world.size for one in _summed(list(norms.values()), patient)]
    return Gradients(mean=mean, own=own, scale=dict(zip(norms, scales, strict=True)))


def fed_gradients(engine: Any, patient: Patient) -> Iterable[tuple[str, int, Tensor]]:
    """What this rank's optimizer was fed in its first step: parameter, place in it, gradient (flattened)."""
    optimizer = patient.small.train.optimizer
    decay = {"exp_avg": optimizer.betas[0], MOMENTUM: optimizer.muon_momentum}
    for key, tensor in state_tensors(engine, patient.world.rank, patient.world.size).items():
        kind, _, rest = key.partition("/")
        if kind in decay:
            start, _, name = rest.partition("/")
            yield name, int(start), tensor / (1 - decay[kind])


def excess(off: Mapping[str, Tensor], plain: Gradients, stretched: float, patient: Patient) -> float:
    """How much of this rank's own share the mean gradient has too much: the difference's projection on it.

    stretched: the engine's norm as a share of the right one; clipping has taken just this out again.
    """
    along = length = 0.0
    for name, one in off.items():
        dist.all_reduce(one)
        before_clipping = (plain.mean[name] + one) * stretched
        along += float(((before_clipping - plain.mean[name]) * plain.own[name]).sum())
        length += float(plain.own[name].square().sum())
    found = along * patient.world.size / max(length, 1e-300)
    return found if math.isfinite(found) else 0.0


def _summed(values: list[float] | list[int], patient: Patient) -> list[float]:
    total = torch.tensor(values, dtype=torch.float64, device=patient.device)
    dist.all_reduce(total)
    return [float(one) for one in total.tolist()]


# --- save and load ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Returned:
    """A rank's state before a checkpoint and out of it."""

    trip: RoundTrip
    streams_saved: dict[str, str]
    streams_loaded: dict[str, str]
    size_bytes: int
    """Of the checkpoint."""


def save_and_load(patient: Patient) -> Returned:
    """Through the run's own saver and loader, into a new engine with other first weights."""
    train, world, folder = patient.small.train, patient.world, patient.folder
    seed_rank(train, world)
    engine = engine_of(patient, train, train.seed)
    take_step(engine, patient, 0)
    with Saver(engine, folder.checkpoints, world, _silent, asynchronous=train.checkpoint.asynchronous) as saver:
        saver.save(describe(patient))
        saved, streams_saved = state_digest(engine, patient), streams()
        take_step(engine, patient, 1)  # beside the write, if training would go on beside it
        went_on = state_digest(engine, patient)
    path = folder.checkpoint(1)
    checkpoint = verify_checkpoint(path)
    resumed = engine_of(patient, train, train.seed + 1)
    torch.manual_seed(0)
    load(resumed, path, checkpoint, world)
    loaded, streams_loaded = state_digest(resumed, patient), streams()
    take_step(resumed, patient, 1)
    trip = RoundTrip(saved=saved, loaded=loaded, went_on=went_on, resumed=state_digest(resumed, patient))
    patient.together()  # all have read it
    if world.is_main:
        shutil.rmtree(folder.checkpoints)
    return Returned(
        trip=trip,
        streams_saved=streams_saved,
        streams_loaded=streams_loaded,
        size_bytes=sum(file.size_bytes for file in checkpoint.files.values()),
    )


def describe(patient: Patient) -> Checkpoint:
    """The record of the small model's checkpoint after its first step."""
    small = patient.small
    sequences = small.train.global_batch_size
    return Checkpoint(
        run=small.name,
        step=1,
        tokens=sequences * small.data.sequence_length,
        position=Position(manifest_digest="", order_version=1, seed=small.train.seed, next_sequence=sequences),
        config_digest=small.digest,
        world_size=patient.world.size,
        zero_stage=small.train.zero.stage,
        precision=small.train.precision,
        model=small.model,
        vocab_size=patient.vocab_size,
        end_of_text_id=END_OF_TEXT,
        sequence_length=small.data.sequence_length,
        tokenizer_sha256="",
        corpus="",
        files={},
    )


def _silent(kind: str, **figures: Any) -> None:
    """No journal: nothing here is part of the run."""


def state_digest(engine: Any, patient: Patient) -> str:
    """sha256 of all that this rank holds: its pieces of masters and moments, and its part of the model's weights."""
    tensors = state_tensors(engine, patient.world.rank, patient.world.size)
    held = {f"weight/{name}": getattr(one, "ds_tensor", one) for name, one in engine.module.named_parameters()}
    return tensors_digest(tensors | held)


def replica_digest(engine: Any) -> str:
    """sha256 of the model's weights; empty where each rank holds another part of them."""
    if engine.zero_optimization_stage() == 3:
        return ""
    return tensors_digest(dict(engine.module.named_parameters()))


def streams() -> dict[str, str]:
    """A digest of each of torch's generators."""
    return {name: tensors_digest({name: state}) for name, state in rng_state().items()}


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    hasher = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        hasher.update(f"{name}\0{len(data)}\0".encode() + data.numpy().tobytes())
    return hasher.hexdigest()
