"""Saving and loading a training state: every rank takes part in both.

    Saver.save      hands the state to the thread; training goes on with the next step's forward and backward pass
    its thread      live state ──snapshot──> host memory      the optimizer waits for this before it changes anything
                    ZeRO stage 3: the ranks' parts of the weights ──gather──> rank 0
                    host memory ──> staging folder ──all ranks agree──> record last, rename
    Saver.wait      once a step's all-reduce has said that all threads are done: tells of the commit, or raises what
                    went wrong

What is unusual: the threads of the ranks settle between themselves, over a group of their own, whether all have written
their share. So an error on one rank is the same clear error on every rank, and no step of training waits for a disk.
"""

import errno
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from cluster.world import World
from data_prep.files import sync_folder, write_record
from pipeline.errors import Mistake, PipelineError
from pipeline.train import snapshot
from pipeline.train.checkpoint import ENGINE_TAG, RECORD_NAME, WEIGHTS_NAME, Checkpoint, FileRecord, sealed
from pipeline.train.elastic import forget_gradients, restore, state_tensors, uses_muon
from pipeline.workspace import step_name

Share = TypeVar("Share")
_PATIENCE = timedelta(hours=2)
"""How long a rank's thread waits for the slowest one's disk."""


@dataclass(kw_only=True, eq=False)
class InFlight:
    """The save that the thread is at."""

    began: float
    saved: Future[tuple[Checkpoint, float]]
    """The record as stored, and when it was committed."""
    stall_s: float
    """How long training has stood still for it."""


class Saver:
    """Commits checkpoints as `step-N/` in the folder, one at a time; `with Saver(...) as saver:` waits for the last.

    Every rank has one and calls it at the same steps. Asynchronous or not, the same bytes are written by the same code.
    It keeps one copy of what this rank writes in host memory: 12 bytes a parameter over the world size, and on rank 0
    the model's weights. At ZeRO stage 3 each rank copies its part of the weights, too.
    """

    def __init__(
        self, engine: Any, folder: Path, world: World, tell: Callable[..., None], *, asynchronous: bool
    ) -> None:
        self._engine, self._folder, self._world, self._tell = engine, folder, world, tell
        self._asynchronous = asynchronous
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._state: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        self._parts: dict[str, Tensor] = {}
        self._room: dict[str, Tensor] = {}
        self._saving: InFlight | None = None
        self._copied = threading.Event()
        self._copied.set()
        self._hooks = [engine.basic_optimizer.register_step_pre_hook(self._wait_for_copy)]
        if uses_muon(engine):  # its momentum changes before the optimizer's step, at stage 3 inside the backward pass
            self._hooks.append(engine.module.register_forward_hook(self._wait_for_copy))
        if world.is_main:
            for torn in folder.glob(".step-*.saving"):  # left by a crash inside a save
                shutil.rmtree(torn)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the save in flight, also behind an error: what training did before it is worth keeping. If that
        fails too, the error that ended training stays the one, with a note."""
        try:
            self.wait()
        except PipelineError as failed:
            if error is None:
                raise
            error.add_note(str(failed))
        finally:
            self._thread.shutdown()
            for hook in self._hooks:
                hook.remove()

    def save(self, checkpoint: Checkpoint) -> None:
        """Saves the state as it is now, and leaves that to the thread if it is asynchronous.

        The record's `files` and `digest` are filled in. Waits for the save before it, and raises PipelineError for it.
        """
        if self._saving is not None:
            began = time.perf_counter()
            futures.wait([self._saving.saved])
            self._saving.stall_s += time.perf_counter() - began
            self.wait()
        began = time.perf_counter()
        live = state_tensors(self._engine, self._world.rank, self._world.size)
        weights: dict[str, Any] = dict(self._engine.module.named_parameters())  # a tied weight appears once
        shapes = {}
        if self._engine.zero_optimization_stage() == 3:
            shapes = {name: parameter.ds_shape for name, parameter in weights.items()}
            weights = {name: parameter.ds_tensor for name, parameter in weights.items()}
        elif not self._world.is_main:
            weights = {}
        now = torch.cuda.current_stream().record_event() if torch.cuda.is_available() else None
        self._copied.clear()
        saved = self._thread.submit(self._write, checkpoint, live, weights, shapes, rng_state(), now)
        self._saving = InFlight(began=began, saved=saved, stall_s=time.perf_counter() - began)
        if not self._asynchronous:
            self.wait()

    def is_over(self) -> bool:
        """Whether a save is in flight whose end here is known and not told yet. The ranks' threads end each at its own
        time: a rank that raised at once would leave the others in the next step's collectives."""
        return self._saving is not None and self._saving.saved.done()

    def wait(self) -> None:
        """Waits for a save in flight, and tells the journal that it was committed. Raises PipelineError if it could not
        be written; the checkpoints before it are not touched. All ranks are to call it at the same steps."""
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        saved, committed = saving.saved.result()
        save_s = committed - saving.began
        self._tell(
            "checkpoint",
            step=saved.step,
            digest=saved.digest,
            size_bytes=sum(file.size_bytes for file in saved.files.values()),
            save_s=save_s,
            stall_s=saving.stall_s if self._asynchronous else save_s,
        )

    def _wait_for_copy(self, *_: Any) -> None:
        """Runs before each step of the optimizer, the one place where the state changes; with Muon before each backward
        pass."""
        if self._saving is not None and not self._copied.is_set():
            began = time.perf_counter()
            self._copied.wait()
            self._saving.stall_s += time.perf_counter() - began

    def _write(
        self,
        checkpoint: Checkpoint,
        live: dict[str, Tensor],
        weights: dict[str, Tensor],
        shapes: Mapping[str, torch.Size],
        rng: dict[str, Tensor],
        now: torch.cuda.Event | None,
    ) -> tuple[Checkpoint, float]:
        """Runs in the thread. Gives the record as stored, on every rank, and when that was. `shapes`: of the weights,
        where each rank has a part of them."""
        staging = self._folder / f".{step_name(checkpoint.step)}.saving"
        try:
            self._agreed(lambda: self._copy(live, self._parts if shapes else self._weights, weights, now))
            self._agreed(lambda: self._make_room(shapes))
            self._gather(shapes)
            self._agreed(lambda: staging.mkdir(parents=True) if self._world.is_main else None)
            shares = self._agreed(lambda: self._write_share(staging, rng))
            files = {name: file for share in shares for name, file in share.items()}
            checkpoint = sealed(replace(checkpoint, files=files))
            self._agreed(lambda: _commit(staging, checkpoint) if self._world.is_main else None)
        except Exception as error:  # a peer that is gone too
            failure = error if isinstance(error, _Failed) else _Failed(_in_words(error))
            if error is failure and self._world.is_main:  # all have ended their part, and a full disk needs the room
                shutil.rmtree(staging, ignore_errors=True)
            advice = "the disk is full: free some space and run again; " if failure.is_full else ""
            raise PipelineError(
                f"{self._folder}: the checkpoint of step {checkpoint.step} could not be written ({failure}); {advice}"
                "those before it are intact"
            ) from error
        return checkpoint, time.perf_counter()

    def _copy(
        self,
        live: dict[str, Tensor],
        buffers: dict[str, Tensor],
        weights: dict[str, Tensor],
        now: torch.cuda.Event | None,
    ) -> None:
        try:
            if now is not None:
                torch.cuda.set_device(self._world.local_rank)  # each thread has its own
            for stale in self._state.keys() - live.keys():  # back at step 0 there are no moments
                del self._state[stale]
            snapshot.snapshot(live, self._state, now)
            snapshot.snapshot(weights, buffers, now)
        finally:
            self._copied.set()

    def _make_room(self, shapes: Mapping[str, torch.Size]) -> None:
        """On rank 0, for the parts of all ranks."""
        if self._world.is_main:
            for name in shapes.keys() - self._room.keys():
                part = self._parts[name]
                self._room[name] = part.new_empty(self._world.size, part.numel())

    def _gather(self, shapes: Mapping[str, torch.Size]) -> None:
        """The whole weights to rank 0. ZeRO cuts a flattened weight into as many parts as there are ranks, of one size:
        the last ones are padded."""
        for name, shape in shapes.items():
            room = self._room[name].view(torch.uint8) if self._world.is_main else None
            to = None if room is None else list(room.unbind())
            dist.gather(self._parts[name].view(torch.uint8), to, group=self._group)  # not every type travels
            if self._world.is_main:
                self._weights[name] = self._room[name].view(-1)[: shape.numel()].view(shape)

    def _write_share(self, staging: Path, rng: dict[str, Tensor]) -> dict[str, FileRecord]:
        rank = self._world.rank
        # Sorted: the buffers' order tells whether a process began at step 0, where there are no moments, or resumed.
        shares = {_state_name(rank): dict(sorted(self._state.items())), _rng_name(rank): rng}
        if self._world.is_main:
            shares[WEIGHTS_NAME] = self._weights
        return {name: snapshot.write_tensors(staging / name, tensors) for name, tensors in shares.items()}

    def _agreed(self, work: Callable[[], Share]) -> list[Share]:
        """Does this rank's part and gives every rank's result. Raises _Failed on all ranks if one failed, whatever it
        was: a rank that kept its error to itself would let the others wait for hours."""
        result: Share | None = None
        failed: Exception | None = None
        try:
            result = work()
        except Exception as error:
            failed = error
        problem = (f"rank {self._world.rank}: {_in_words(failed)}", _is_full(failed)) if failed else None
        told: list[Any] = [None] * self._world.size
        dist.all_gather_object(told, (result, problem), group=self._group)
        if problems := [problem for _, problem in told if problem]:
            raise _Failed("; ".join(why for why, _ in problems), is_full=any(full for _, full in problems)) from failed
        return [result for result, _ in told]


class _Failed(Exception):
    """Why a save came to nothing, on whichever ranks."""

    def __init__(self, why: str, *, is_full: bool = False) -> None:
        super().__init__(why)
        self.is_full = is_full


def _in_words(error: Exception) -> str:
    """In one line. The system's own words say what they are about; others need the error's kind."""
    said = " ".join(str(error).split("\n", 1)[0].split())
    return said if said and isinstance(error, OSError) else f"{type(error).__name__}: {said}".removesuffix(": ")


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _commit(staging: Path, checkpoint: Checkpoint) -> None:
    write_record(staging / RECORD_NAME, checkpoint)
    staging.rename(staging.with_name(step_name(checkpoint.step)))
    sync_folder(staging.parent)


def load(engine: Any, path: Path, checkpoint: Checkpoint, world: World) -> None:
    """Restores a verified checkpoint into the engine, whichever world size and ZeRO stage saved it.

    At the world size and stage that saved it, training goes on bit by bit as if it had not stopped. Raises Mistake for
    a checkpoint of headrace 0.1.0 from another world, which kept DeepSpeed's own files.
    """
    forget_gradients(engine)
    if any(name.startswith(f"{ENGINE_TAG}/") for name in checkpoint.files):
        _load_engine_files(engine, path, checkpoint, world)
    else:
        load_weights(engine, path / WEIGHTS_NAME, world)
        restore(engine, [path / _state_name(rank) for rank in range(checkpoint.world_size)])
        engine.global_steps = checkpoint.step
    if world.rank < checkpoint.world_size:  # nothing draws from the generators so far; a rank too many starts afresh
        _restore_rng(load_file(path / _rng_name(world.rank)))


def _load_engine_files(engine: Any, path: Path, checkpoint: Checkpoint, world: World) -> None:
    """DeepSpeed's own loading, for checkpoints that were made before the state was stored in pieces."""
    if checkpoint.world_size != world.size or checkpoint.zero_stage != engine.zero_optimization_stage():
        raise Mistake(
            f"{path}: headrace 0.1.0 saved this with {checkpoint.world_size} ranks at ZeRO stage "
            f"{checkpoint.zero_stage}; resume with these until the next checkpoint, which any world can read "
            "(cluster.nodes, cluster.processes_per_node, train.zero.stage)"
        )
    loaded, _ = engine.load_checkpoint(str(path), tag=ENGINE_TAG)
    if loaded is None or engine.global_steps != checkpoint.step:
        raise PipelineError(f"{path}: DeepSpeed restored step {engine.global_steps}, the record says {checkpoint.step}")


def load_weights(engine: Any, path: Path, world: World) -> None:
    """The whole model's weights into the live model. At ZeRO stage 3 rank 0 reads them and hands out the parts."""
    weights = load_file(path)
    for name, parameter in engine.module.named_parameters():
        with _gathered(parameter), torch.no_grad():
            if world.is_main or not hasattr(parameter, "ds_id"):
                parameter.copy_(weights[name])


def _gathered(parameter: Tensor) -> Any:
    """Makes a parameter whole, where ZeRO stage 3 has cut it, for rank 0 to change."""
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id"))


def _state_name(rank: int) -> str:
    return f"state-{rank:05d}.safetensors"


def _rng_name(rank: int) -> str:
    return f"rng-{rank:05d}.safetensors"


def rng_state() -> dict[str, Tensor]:
    """torch's generators, which DeepSpeed does not save. Nothing in training draws from Python's or numpy's."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_rng(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
