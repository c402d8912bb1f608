"""The optimizer's state as pieces of named parameters, which every world size and ZeRO stage can read.

    live engine ──pieces──> Piece: blocks.0.mlp.up.weight, numbers 512 to 1,023 ──> state-00003.safetensors, one a rank
    state-*.safetensors, of any world ──restore──> each piece of this engine, from the files that overlap it

ZeRO lays the parameters end to end and cuts the row anew for each world size and stage. What a number *is* does not
change: it belongs to a parameter, at a place in it. So that is how we store master weights and Adam's moments, and a
resume elsewhere is only another set of cuts through the same row: nothing is converted, nothing is unpickled.

The price is that we know where DeepSpeed keeps its fp32 state at each stage: `pieces` is all of that knowledge, and
`muon_rows` for Muon.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from pipeline.errors import CorruptCheckpoint

MASTER, STEP, MOMENTUM = "master", "step", "momentum_buffer"


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """The numbers `start` to `start + numel` of a parameter, where this rank's optimizer holds them."""

    name: str
    """The parameter's name in the model."""
    start: int
    """The first number's place in the flattened parameter."""
    numel: int
    holder: Tensor
    """The fp32 tensor that Adam updates, and finds its moments by: a row of many pieces, or the parameter alone."""
    offset: int
    """Where the piece begins in the flattened holder."""

    def of(self, whole: Tensor) -> Tensor:
        """The piece's part of the holder, or of a tensor of the same shape."""
        return whole.detach().view(-1).narrow(0, self.offset, self.numel)


def pieces(engine: Any) -> list[Piece]:
    """All that this rank's optimizer holds, without the padding."""
    names = {parameter: name for name, parameter in engine.module.named_parameters()}  # a tied weight appears once
    return [piece for parameter, name in names.items() if (piece := _piece(engine, name, parameter)) is not None]


def _piece(engine: Any, name: str, parameter: Any) -> Piece | None:
    """The rank's piece of one parameter; None if other ranks hold it all."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage == 0:
        return Piece(name=name, start=0, numel=parameter.numel(), holder=_unsharded(optimizer, parameter), offset=0)
    if stage == 3:
        group, offset, numel = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = numel * torch.distributed.get_rank(engine.data_parallel_group)
        numel = min(numel, parameter.ds_numel - start)  # equal parts: the last ones are padded
        holder = optimizer.fp32_partitioned_groups_flat[group]
        return Piece(name=name, start=start, numel=numel, holder=holder, offset=offset) if numel > 0 else None
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    place, held = mapping.lp_fragment_address, mapping.get_hp_fragment_address()
    (holder,) = engine.basic_optimizer.param_groups[mapping.param_group_index]["params"]
    return Piece(name=name, start=place.start, numel=place.numel, holder=holder, offset=held.start)


def _unsharded(optimizer: Any, parameter: Tensor) -> Tensor:
    """Stage 0 updates fp32 parameters in place, and copies of bf16 ones."""
    if isinstance(optimizer, torch.optim.Optimizer):
        return parameter
    pairs = zip(chain(*optimizer.fp16_groups), chain(*optimizer.fp32_groups), strict=True)
    master: Tensor = next(master for low, master in pairs if low is parameter)
    return master


def forget_trial_step(engine: Any) -> None:
    """At stage 0 in bf16 a new engine has taken a step with gradients of 0 (`initialize_optimizer_states`, 0.19.8): its
    masters are decayed, and Adam would count it, so that the first real step is a quarter too short. Undoes that."""
    if engine.zero_optimization_stage() == 0:
        engine.basic_optimizer.state.clear()
        for parameter in engine.module.parameters():
            _unsharded(engine.optimizer, parameter).data.copy_(parameter.data)  # in fp32 itself


def muon_rows(engine: Any) -> list[tuple[Tensor, dict[str, int]]]:
    """At ZeRO stages 1 and 2 Muon's momentum is not cut as the weights are: a rank keeps that of whole matrices, of
    each that it has a piece of, end to end. Gives the holder that each such row belongs to, and its matrices' sizes.

    At the other stages, and at stage 1 in bf16, it lies as the weights do, and there are no such rows.
    """
    if not uses_muon(engine) or not hasattr(engine.optimizer, "params_in_partition"):
        return []
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    groups = zip(engine.basic_optimizer.param_groups, engine.optimizer.params_in_partition, strict=True)
    return [
        (group["params"][0], {names[matrix]: matrix.numel() for matrix in matrices})
        for group, matrices in groups
        if group["use_muon"] and matrices
    ]


def uses_muon(engine: Any) -> bool:
    return any(group.get("use_muon", False) for group in engine.basic_optimizer.param_groups)


def state_tensors(engine: Any, rank: int, world_size: int) -> dict[str, Tensor]:
    """What this rank must save: `master/START/NAME`, and `exp_avg/START/NAME` and its like (fp32 views of the live
    state), and the optimizer's `step`. Every number of the model's state is some rank's, and only one's."""
    own = pieces(engine)
    if engine.zero_optimization_stage() == 0:  # all ranks hold all: they share the writing
        own = own[rank::world_size]
    momenta = _whole_momenta(engine)
    tensors = {}
    for piece in own:
        state = engine.basic_optimizer.state.get(piece.holder, {})  # none before the first step
        moments = {kind: piece.of(whole) for kind, whole in state.items() if whole.shape == piece.holder.shape}
        if piece.name in momenta:
            moments[MOMENTUM] = momenta[piece.name].narrow(0, piece.start, piece.numel)
        for kind, part in {MASTER: piece.of(piece.holder), **moments}.items():
            tensors[f"{kind}/{piece.start}/{piece.name}"] = part
        if STEP in state:
            tensors[STEP] = state[STEP]
    return tensors


def _whole_momenta(engine: Any) -> dict[str, Tensor]:
    """The matrices' momenta, flattened, out of `muon_rows`; none before the first step."""
    momenta: dict[str, Tensor] = {}
    for holder, sizes in muon_rows(engine):
        row = engine.basic_optimizer.state.get(holder, {}).get(MOMENTUM)
        if row is not None:
            momenta |= zip(sizes, row.detach().split(list(sizes.values())), strict=True)
    return momenta


def restore(engine: Any, files: Iterable[Path]) -> None:
    """Fills this rank's optimizer from the state files of a checkpoint, whichever world wrote them.

    Raises CorruptCheckpoint if they do not hold all that this engine needs.
    """
    saved = Saved(files)
    rows = muon_rows(engine)
    for piece in pieces(engine):
        state = engine.basic_optimizer.state[piece.holder]
        kinds = saved.kinds(piece.name)
        if saved.step is None:
            state.clear()
        elif MOMENTUM not in kinds:  # Muon does not count
            state[STEP] = torch.tensor(saved.step, dtype=torch.float32, device=piece.holder.device)
        for kind in sorted(kinds - {MOMENTUM} if rows else kinds):
            if kind != MASTER and kind not in state:
                state[kind] = torch.zeros_like(piece.holder, requires_grad=False)  # the padding stays 0
            whole = piece.holder if kind == MASTER else state[kind]
            piece.of(whole).copy_(saved.read(kind, piece.name, piece.start, piece.numel))
    for holder, sizes in rows:
        if all(MOMENTUM in saved.kinds(name) for name in sizes):
            row = torch.cat([saved.read(MOMENTUM, name, 0, size) for name, size in sizes.items()])
            engine.basic_optimizer.state[holder][MOMENTUM] = row.to(holder.device)


def forget_gradients(engine: Any) -> None:
    """Behind a step that was not made, its gradient being no number: with an offloaded optimizer at ZeRO stages 1 and 2
    DeepSpeed keeps the sums that were to be its own, and adds the next step's to them, which are then no number either
    (`DeepSpeedZeroOptimizer.step`, 0.19.8: they are dropped if nothing is offloaded)."""
    if engine.zero_optimization_stage() in (1, 2) and getattr(engine.optimizer, "cpu_offload", False):
        for group in engine.optimizer.averaged_gradients:
            engine.optimizer.averaged_gradients[group] = None


class Saved:
    """The state files of one checkpoint as one row of numbers a parameter. They stay mapped, and are read on demand."""

    def __init__(self, files: Iterable[Path]) -> None:
        """Raises CorruptCheckpoint if the files are not of one state."""
        self._parts: dict[tuple[str, str], list[tuple[int, Any]]] = defaultdict(list)
        steps = set()
        for path in files:
            file: Any = safe_open(path, framework="pt")
            for key in file.keys():  # noqa: SIM118 - not a dict
                if key == STEP:
                    steps.add(float(file.get_tensor(key)))
                    continue
                kind, start, name = key.split("/", 2)
                self._parts[kind, name].append((int(start), file.get_slice(key)))
        if len(steps) > 1:
            raise CorruptCheckpoint(f"the ranks of a checkpoint disagree about the optimizer's step: {sorted(steps)}")
        self.step = steps.pop() if steps else None
        """Steps that the optimizer has taken; None before its first."""

    def kinds(self, name: str) -> set[str]:
        """What was saved of a parameter: its master weights, and its moments unless the optimizer took no step yet."""
        return {kind for kind, of in self._parts if of == name}

    def read(self, kind: str, name: str, start: int, numel: int) -> Tensor:
        """Numbers of a flattened parameter's master weight or moment, (numel,) fp32."""
        read = [part[low:high] for part, low, high in self._overlaps(kind, name, start, start + numel)]
        found = torch.cat(read) if read else torch.empty(0)
        if found.numel() != numel:
            raise CorruptCheckpoint(
                f"the checkpoint has {found.numel()} of the numbers {start} to {start + numel} of {name} ({kind}); "
                "use another checkpoint"
            )
        return found

    def _overlaps(self, kind: str, name: str, start: int, end: int) -> Iterator[tuple[Any, int, int]]:
        for first, part in sorted(self._parts[kind, name], key=lambda item: item[0]):
            low, high = max(start, first) - first, min(end, first + part.get_shape()[0]) - first
            if low < high:
                yield part, low, high
