"""One rank's part in an examination: find the world, and go through the checks together with all others.

Each check is a measurement that all ranks make, and a verdict over what all of them found. An error in a measurement,
on whichever rank, is the verdict of that check alone. A measurement that does not end is ended by the watchdog, and the
report says in which check.
"""

import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cluster.world import World, world_from_env
from data_prep.files import write_record
from pipeline.config import RunConfig, check_batch
from pipeline.doctor import checks, machine, network, remote, state
from pipeline.doctor.checks import Check, Traffic
from pipeline.doctor.patient import Patient
from pipeline.doctor.report import REPORT_NAME, Report, render, unfinished
from pipeline.doctor.small import VOCABULARY, small_run
from pipeline.durable import remote_of
from pipeline.errors import Mistake
from pipeline.plan.estimate import Plan, make_plan
from pipeline.plan.hardware import hardware_for
from pipeline.plan.memory import ELEMENT_BYTES, Forward
from pipeline.plan.traffic import exchanged_bytes
from pipeline.plan.vocabulary import find_vocabulary
from pipeline.train.engine import in_world
from pipeline.train.gpus import check_gpus
from pipeline.train.watchdog import Watchdog
from pipeline.workspace import RunFolder, Workspace

ALL_SAID_S, ENDED_S = 15.0, 30.0
"""In a hang every rank says where it stands. Rank 0 listens so long at most, writes the report and ends, and with it
the job; without it the others end by themselves."""
MEETING_S = 300.0
"""How long the ranks may take to start and to meet, beside the first check."""


def examine_rank(config: RunConfig, workspace: Workspace, timeout_s: float) -> Report | None:
    """Takes part as one rank; rank 0 gets the report. Each check may take `timeout_s`.

    Raises Mistake if the batch or the GPUs do not fit the world that this rank finds itself in.
    """
    began = time.monotonic()
    world = world_from_env(os.environ)
    check_batch(config.train, world.size)
    check_gpus(world, torch.cuda.device_count())
    folder = RunFolder(path=workspace.run(config.name).path / "doctor")
    folder.path.mkdir(parents=True, exist_ok=True)
    done: list[Check] = []

    def report(why: str = "") -> Report:
        left = [name for exam in EXAMS for name in exam.names][len(done) :]
        return Report(
            run=config.name,
            setting=setting_of(config, world),
            checks=unfinished(done, left, why),
            seconds=round(time.monotonic() - began, 1),
        )

    def write(why: str = "") -> None:
        if world.is_main:
            write_record(folder.path / REPORT_NAME, report(why))

    def hung(silent_s: float) -> None:
        why = f"did not end within {silent_s:.0f} s; {checks.standing(places(folder, world))}"
        write(why)
        if world.is_main:
            print(render(report(why)), file=sys.stderr, flush=True)

    watchdog = Watchdog(
        config.name,
        rank=world.rank,
        step_timeout_s=timeout_s,
        start_timeout_s=timeout_s + MEETING_S,
        hung=hung,
        waited_for="no check of the doctor has ended",
        advice="the report says where each rank stands; a slow machine may need a longer --timeout-s",
        end=lambda code: end_last(code, world),
    )
    if world.is_main:
        clear(folder)
    write("the ranks did not meet")
    with watchdog, in_world(world):
        patient = patient_of(config, workspace, folder, world)
        watchdog.beat()
        for exam in EXAMS:
            write("the job ended in this check")
            if world.is_main:
                print(f"headrace: doctor: {', '.join(exam.names)}", file=sys.stderr, flush=True)
            done += carry_out(exam, patient)
            watchdog.beat()
        patient.together()
    write()
    return report() if world.is_main else None


def clear(folder: RunFolder) -> None:
    """Takes away what an examination before this one left; the job's own folder is the launcher's."""
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    for pattern in ("place-*", "probe-*", folder.stop.name):
        for path in folder.path.glob(pattern):
            path.unlink()


def places(folder: RunFolder, world: World) -> list[str | None]:
    """Leaves word of where this rank's main thread stands; gives on rank 0 what all have left, None for who has not."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    place = f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
    files = [folder.path / f"place-{rank:05d}" for rank in range(world.size)]
    files[world.rank].write_text(place)
    if not world.is_main:
        return []
    until = time.monotonic() + ALL_SAID_S
    while True:
        said = [path.read_text() if path.exists() else "" for path in files]
        if all(said) or time.monotonic() > until:
            return [one or None for one in said]
        time.sleep(0.05)


def end_last(code: int, world: World) -> None:
    """Ends this process, and leaves rank 0 the time to speak first."""
    if not world.is_main:
        time.sleep(ENDED_S)
    os._exit(code)


def setting_of(config: RunConfig, world: World) -> str:
    train = config.train
    ranks = f"{world.size} × {config.cluster.launcher} rank{'s' if world.size > 1 else ''}"
    shared = f", sequences shared by {train.sequence_parallel}" if train.sequence_parallel > 1 else ""
    return f"{ranks}, ZeRO {train.zero.stage}, {train.precision}{shared}"


def patient_of(config: RunConfig, workspace: Workspace, folder: RunFolder, world: World) -> Patient:
    device = machine.device_name()
    planned_on = machine.planned_on(device)
    plan = plan_of(config, workspace, world, planned_on)
    vocab_size = plan.vocabulary.size if plan else VOCABULARY
    return Patient(
        config=config,
        small=small_run(config, world.size, vocab_size),
        vocab_size=min(vocab_size, VOCABULARY),
        plan=plan,
        timed=planned_on is not None,
        workspace=workspace,
        folder=folder,
        world=world,
        device=torch.device("cuda", world.local_rank) if device else torch.device("cpu"),
        group=dist.new_group(backend="gloo"),
    )


def plan_of(config: RunConfig, workspace: Workspace, world: World, planned_on: str | None) -> Plan | None:
    """On the devices that are here; None if nobody knows the size of the vocabulary yet."""
    try:
        vocabulary = find_vocabulary(config, workspace, None)
    except Mistake:
        return None
    return make_plan(config, vocabulary, hardware_for(config, gpu=planned_on, count=world.size))


# --- the checks, in order ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exam:
    """One measurement and the checks that are judged by it."""

    names: tuple[str, ...]
    measure: Callable[[Patient], Any]
    judge: Callable[[Patient, Sequence[Any]], list[Check]]


def carry_out(exam: Exam, patient: Patient) -> list[Check]:
    """All ranks measure, and all judge what all of them measured."""
    own = problem = None
    try:
        own = exam.measure(patient)
    except Exception as error:  # whatever goes wrong on a machine in doubt is that check's finding
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(f"headrace: doctor: rank {patient.world.rank}: {problem}", file=sys.stderr, flush=True)
        traceback.print_exc()
    told = patient.gathered((own, problem))
    problems = {rank: problem for rank, (_, problem) in enumerate(told) if problem}
    if problems:
        return [checks.broken(name, problems) for name in exam.names]
    return exam.judge(patient, [own for own, _ in told])


def judge_machines(patient: Patient, found: Sequence[machine.Machine]) -> list[Check]:
    cluster, plan = patient.config.cluster, patient.plan
    micro_batch = "lower train.micro_batch_size or raise train.zero.stage (headrace plan CONFIG)"
    return [
        checks.check_ranks(len(found), patient.config.world_size, [one.host for one in found]),
        checks.check_versions([one.versions for one in found]),
        checks.check_devices(
            [one.device for one in found],
            [one.visible for one in found],
            max(one.local_size for one in found),
            cluster.gpus_per_node,
        ),
        checks.check_memory(plan.chosen.memory.total, [one.free_bytes for one in found], micro_batch)
        if plan
        else checks.skipped("memory", NO_PLAN),
        checks.check_clocks(machine.clock_offsets([one.ticks for one in found])),
    ]


NO_PLAN = "the size of the vocabulary is not known yet: headrace prep CONFIG"


def judge_notice(patient: Patient, found: Sequence[float | None]) -> list[Check]:
    return [checks.check_notice(found)]


def judge_disk(patient: Patient, found: Sequence[machine.Disk]) -> list[Check]:
    plan = patient.plan
    if plan is None:
        return [checks.skipped("disk space", NO_PLAN), checks.skipped("disk speed", NO_PLAN)]
    return [
        checks.check_disk_space(min(one.free_bytes for one in found), plan.checkpoint_bytes, plan.checkpoints_kept),
        checks.check_disk_speed(
            sum(one.written_bytes for one in found),
            [one.seconds for one in found],
            plan.checkpoint_bytes,
            between_s(patient),
        ),
    ]


def between_s(patient: Patient) -> float | None:
    """Seconds from one checkpoint to the next as planned; None if that means nothing here."""
    plan, steps = patient.plan, patient.config.train.checkpoint.every_steps
    return steps * plan.tokens_per_step / plan.tokens_per_s if plan and patient.timed else None


def judge_network(patient: Patient, found: Sequence[network.Network]) -> list[Check]:
    slowest = checks.check_slowest([one.waiting_s for one in found], [one.flops for one in found])
    if len(found) == 1:
        return [checks.skipped("bandwidth", "a single rank sends nothing"), slowest]
    return [checks.check_bandwidth([one.calls for one in found], traffic_of(patient)), slowest]


def traffic_of(patient: Patient) -> Traffic | None:
    plan, train = patient.plan, patient.config.train
    if plan is None or not patient.timed:
        return None
    one = Forward(
        model=patient.config.model,
        micro_batch_size=train.micro_batch_size,
        sequence_length=plan.sequence_length,
        precision=train.precision,
        peers=train.sequence_parallel,
    )
    return Traffic(
        stage=train.zero.stage,
        gradient_bytes=plan.parameters.total * ELEMENT_BYTES[train.reduce_dtype],
        weight_bytes=plan.parameters.total * ELEMENT_BYTES[train.precision],
        reductions=plan.accumulation,
        compute_s=plan.tokens_per_step / plan.tokens_per_s,
        exchanged_bytes=plan.accumulation * exchanged_bytes(one),
        peers=train.sequence_parallel,
    )


def judge_gradients(patient: Patient, found: Sequence[checks.Difference]) -> list[Check]:
    small = patient.small
    bound = checks.gradient_bound(small.train, patient.world.size, small.data.sequence_length)
    return [checks.check_gradients(found, bound)]


def judge_state(patient: Patient, found: Sequence[state.Returned]) -> list[Check]:
    return [
        checks.check_round_trip([one.trip for one in found], found[0].size_bytes),
        checks.check_streams([one.streams_saved for one in found], [one.streams_loaded for one in found]),
    ]


def judge_remote(patient: Patient, found: Sequence[checks.Visit | None]) -> list[Check]:
    visits, store = [one for one in found if one is not None], remote_of(patient.config)
    if store is None:
        return [checks.skipped(name, "the config has no remote") for name in ("remote", "remote speed")]
    access = checks.check_remote(store.url, visits)
    if visits[0].up_bytes_per_s is None:
        return [access, checks.skipped("remote speed", "nothing could be stored")]
    size = patient.plan.checkpoint_bytes if patient.plan else None
    return [access, checks.check_remote_speed(visits[0], size, between_s(patient))]


def judge_cache(patient: Patient, found: Sequence[checks.CacheFolder | None]) -> list[Check]:
    folders, budget_bytes = [one for one in found if one is not None], patient.config.data.cache_bytes
    if budget_bytes is None or not folders:
        why = "the config has no data.cache_bytes" if budget_bytes is None else "the workspace has the run's shards"
        return [checks.skipped("shard cache", why)]
    return [checks.check_cache(folders, budget_bytes)]


EXAMS = (
    Exam(("ranks", "versions", "devices", "memory", "clocks"), machine.look, judge_machines),
    Exam(("stop notice",), machine.wait_for_notice, judge_notice),
    Exam(("disk space", "disk speed"), machine.write_probe, judge_disk),
    Exam(("bandwidth", "slowest rank"), network.measure, judge_network),
    Exam(("gradients",), state.compare_gradients, judge_gradients),
    Exam(("save and load", "random streams"), state.save_and_load, judge_state),
    Exam(("shard cache",), remote.look_at_cache, judge_cache),
    # Last: a store that never answers ends the job, and what is behind it would not be reached.
    Exam(("remote", "remote speed"), remote.visit_remote, judge_remote),
)
