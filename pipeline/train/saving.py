"""Saving and loading a training state: every rank takes part in both."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cluster.world import World
from data_prep.files import sha256_file, sync_folder, write_record
from pipeline.errors import Mistake, PipelineError
from pipeline.train.checkpoint import ENGINE_TAG, RECORD_NAME, WEIGHTS_NAME, Checkpoint, FileRecord, sealed


def save(engine: Any, folder: Path, checkpoint: Checkpoint, world: World) -> Checkpoint:
    """Commits the training state as `step-N/` in the folder. Gives the record as stored, on every rank.

    Raises PipelineError if it cannot be written, as on a full disk; checkpoints that are there already are not touched.
    """
    try:
        return _save(engine, folder, checkpoint, world)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer turns a full disk into RuntimeError
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PipelineError(
            f"{folder}: the checkpoint of step {checkpoint.step} could not be written ({why}); is the disk full? "
            "Free some space and run again: those before it are intact"
        ) from error


def _save(engine: Any, folder: Path, checkpoint: Checkpoint, world: World) -> Checkpoint:
    staging = folder / f".step-{checkpoint.step:08d}.saving"
    if world.rank == 0:
        shutil.rmtree(staging, ignore_errors=True)  # left by a crash inside a save
        staging.mkdir(parents=True)
    dist.barrier()
    engine.save_checkpoint(str(staging), tag=ENGINE_TAG, save_latest=False)
    save_file(_rng_state(), staging / _rng_name(world.rank))
    weights = gather_weights(engine, keep=world.rank == 0)
    if world.rank == 0:
        save_file(weights, staging / WEIGHTS_NAME)
    dist.barrier()
    checkpoint = sealed(replace(checkpoint, files=_hash_files(staging, world)))
    if world.rank == 0:
        write_record(staging / RECORD_NAME, checkpoint)
        staging.rename(folder / f"step-{checkpoint.step:08d}")
        sync_folder(folder)
    dist.barrier()
    return checkpoint


def load(engine: Any, path: Path, checkpoint: Checkpoint, world: World) -> None:
    """Restores a verified checkpoint into a fresh engine. Raises Mistake if it was saved by another world."""
    if checkpoint.world_size != world.size or checkpoint.zero_stage != engine.zero_optimization_stage():
        raise Mistake(
            f"{path}: saved by {checkpoint.world_size} ranks at ZeRO stage {checkpoint.zero_stage}, but this run has "
            f"{world.size} at stage {engine.zero_optimization_stage()}; resume with the former "
            "(cluster.nodes, cluster.processes_per_node, train.zero.stage)"
        )
    loaded, _ = engine.load_checkpoint(str(path), tag=ENGINE_TAG)
    if loaded is None or engine.global_steps != checkpoint.step:
        raise PipelineError(f"{path}: DeepSpeed restored step {engine.global_steps}, the record says {checkpoint.step}")
    _restore_rng(load_file(path / _rng_name(world.rank)))


def gather_weights(engine: Any, *, keep: bool) -> dict[str, torch.Tensor]:
    """The whole model's weights on the CPU, where `keep` is set. At ZeRO stage 3 all ranks lend their parts, one tensor
    at a time."""
    import deepspeed

    weights = {}
    for name, parameter in engine.module.named_parameters():  # a tied weight appears once
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if keep:
                weights[name] = parameter.detach().cpu().clone().contiguous()
    return weights


def _hash_files(folder: Path, world: World) -> dict[str, FileRecord]:
    """Every file's size and sha256; the ranks share the reading, and sync each file to disk on the way."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    own = {name: _hash_and_sync(folder / name) for name in names[world.rank :: world.size]}
    shares: list[dict[str, FileRecord]] = [{} for _ in range(world.size)]
    dist.all_gather_object(shares, own)
    return {name: record for share in shares for name, record in share.items()}


def _hash_and_sync(path: Path) -> FileRecord:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return FileRecord(size_bytes=path.stat().st_size, sha256=sha256_file(path))


def _rng_name(rank: int) -> str:
    return f"rng-{rank:05d}.safetensors"


def _rng_state() -> dict[str, torch.Tensor]:
    """torch's generators, which DeepSpeed does not save. Nothing in training draws from Python's or numpy's."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_rng(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
