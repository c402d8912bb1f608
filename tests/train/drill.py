"""A long drill: whatever strikes a run, and however often, it ends as the unbroken one, loss by loss and digest by digest.

    python -m tests.train.drill --minutes 30 [--seed 7] [--round 12]

    seed, number ──> Round: a ZeRO stage, an optimizer, a trouble, the world of each start and what strikes it there
    Round ────────> starts of real ranks, one after the other, each but the last struck ──> compared with the unbroken run

A strike falls inside one rank: before or after the n-th call of one of the functions that a crash could tear apart
(`POINTS`), which comes again with the same seed and round; or by the clock, at an instant that nobody chose. It is a
SIGKILL, after which the other ranks are killed at once or left alone for a while, or a notice to stop (SIGTERM).

What is unusual: the ranks are forks of this process, which has loaded torch and DeepSpeed once: that is most of what a
small run costs.
"""

import argparse
import contextlib
import importlib
import math
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch.distributed as dist

from cluster.world import World, world_env
from data_prep.manifest import read_manifest
from pipeline.config import load_config
from pipeline.data.order import order_of_config
from pipeline.monitor.journal import read_journal, unbroken
from pipeline.train import guard, loop, resume, rollback, saving, snapshot
from pipeline.train.checkpoint import steps_saved, verify_checkpoint
from tests.train import train_small
from tests.train.small_runs import config_tree, curve, small_corpus, write_config

STEPS, EVERY, BAD_STEP = 14, 3, 8
HUNG_S = 180.0
"""A start that takes longer is a failure of the drill: a machine under load needs a tenth of it."""

POINTS: dict[str, tuple[Any, str, int]] = {
    "load": (resume, "load", 1),
    "step": (loop, "take_step", STEPS),
    "save": (saving.Saver, "save", STEPS // EVERY),
    "copy": (snapshot, "snapshot", 2 * STEPS // EVERY),
    "write": (snapshot, "write_tensors", 3 * STEPS // EVERY),
    "record": (saving, "write_record", STEPS // EVERY),
    "commit": (saving, "_commit", STEPS // EVERY),
    "set aside": (rollback, "set_aside", 2),
    "guard": (rollback, "write_record", 2),
    "clock": (None, "", 3000),
}
"""Where a strike falls: a function and its owner, and the most calls in one process that it is worth waiting for; by
the clock, the most milliseconds."""
MAIN_ONLY = {"record", "commit", "set aside", "guard"}
WHILE_ROLLING_BACK = {"set aside", "guard"}


@dataclass(frozen=True, kw_only=True)
class Strike:
    point: str
    call: int
    """Counted from 1; by the clock, milliseconds."""
    after: bool
    """Behind the call rather than in front of it."""
    rank: int
    how: Literal["kill", "kill all", "notice"]


@dataclass(frozen=True, kw_only=True)
class Start:
    ranks: int
    strike: Strike | None = None


@dataclass(frozen=True, kw_only=True)
class Round:
    stage: int
    optimizer: Literal["adamw", "muon"]
    asynchronous: bool
    trouble: Literal["none", "machine", "data"]
    """What makes the guard roll back: a step's loss is not a number once, or each time that its data comes."""
    starts: tuple[Start, ...]
    """The last one is not struck."""
    shares: bool = False
    """Whether two ranks share sequences."""

    @property
    def elastic(self) -> bool:
        return len({start.ranks for start in self.starts}) > 1


def drawn(seed: int, number: int) -> Round:
    """The round of that number. Every fifth is elastic; the eight others of the first ten are all ZeRO stages with both
    optimizers."""
    draw = random.Random(f"{seed}/{number}")
    elastic, exact = number % 5 == 4, number - (number + 1) // 5
    trouble: Any = "none" if elastic else draw.choice(["none", "machine", "data"])
    points = [point for point in POINTS if trouble != "none" or point not in WHILE_ROLLING_BACK]
    worlds = [2, 1] * 3 if elastic else [2] * 6

    def strike(ranks: int) -> Strike:
        point = draw.choice(points)
        return Strike(
            point=point,
            call=draw.randint(1, POINTS[point][2]),
            after=draw.random() < 0.5,
            rank=0 if point in MAIN_ONLY else draw.randrange(ranks),
            how=draw.choice(["kill", "kill all", "notice"]),
        )

    struck = [Start(ranks=ranks, strike=strike(ranks)) for ranks in worlds[: draw.randint(3, 5)]]
    return Round(
        stage=draw.randrange(4) if elastic else exact % 4,
        optimizer="muon" if exact // 4 % 2 and not elastic else "adamw",
        asynchronous=draw.random() < 0.8,
        trouble=trouble,
        starts=(*struck, Start(ranks=worlds[len(struck)])),
        shares=draw.random() < 0.3,
    )


def drill(seed: int, number: int, folder: Path) -> str:
    """Plays one round, and gives what happened in a line. Raises AssertionError if the run does not end as it must."""
    chosen = drawn(seed, number)
    expected = unbroken_run(folder, chosen.stage, chosen.optimizer, chosen.trouble == "data", chosen.shares)
    run, marker = folder / f"round-{number}" / "runs/small", folder / f"round-{number}.machine"
    deaths = notices = 0
    for start in chosen.starts:
        codes = play(chosen, start, run.parents[1], folder, marker)
        if start.strike is None or {*codes} == {0}:
            assert {*codes} == {0}, f"{start}: the ranks ended with {codes}; {run.parents[1]}/ranks.log"
            break
        if {*codes} == {75}:
            notices += 1
        else:
            assert any(code < 0 for code in codes), f"{start}: {codes}; {run.parents[1]}/ranks.log"
            deaths += 1
    compare(run, expected, exact=not chosen.elastic)
    rollbacks = guard.read_guard(run / "guard.json").rollbacks
    return (
        f"stage {chosen.stage}, {chosen.optimizer}, {'ranks 2 and 1' if chosen.elastic else 'ranks 2'}"
        f"{', which share sequences' if chosen.shares else ''}, "
        f"saves {'beside' if chosen.asynchronous else 'between'} steps: {deaths} deaths, {notices} notices, "
        f"{rollbacks} rollbacks"
    )


def compare(run: Path, expected: Path, *, exact: bool) -> None:
    journal = read_journal(run / "metrics.jsonl")
    torn = [line["problem"] for line in journal if line.get("verdict") == "checkpoint_corrupt"]
    assert not torn, "what is committed is whole, whatever happens"
    assert not list((run / "checkpoints").glob(".*")), "what was torn is swept away"
    ours, theirs = unbroken(journal), unbroken(read_journal(expected / "metrics.jsonl"))
    assert [line["batch_digest"] for line in ours] == [line["batch_digest"] for line in theirs]
    if not exact:  # the bounds of test_elastic.py
        assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-5)
        return
    assert curve(run) == curve(expected)
    saved = steps_saved(expected / "checkpoints")
    assert {*saved} <= {*steps_saved(run / "checkpoints")}, "a notice adds more"
    for step in saved:
        mine, other = (verify_checkpoint(path / f"checkpoints/step-{step:08d}") for path in (run, expected))
        differ = [name for name in other.files if mine.files.get(name) != other.files[name]]
        assert mine.digest == other.digest, f"step {step}: {differ or 'the records'} differ"


@cache
def unbroken_run(folder: Path, stage: int, optimizer: Literal["adamw", "muon"], bad_data: bool, shares: bool) -> Path:
    """The folder of a run that nothing strikes."""
    workspace = folder / f"unbroken-{stage}-{optimizer}-{bad_data}-{shares}"
    starts = (Start(ranks=2),)
    trouble: Any = "data" if bad_data else "none"
    whole = Round(stage=stage, optimizer=optimizer, asynchronous=True, trouble=trouble, starts=starts, shares=shares)
    codes = play(whole, starts[0], workspace, folder, folder / "unused")
    assert codes == [0, 0], f"{codes}; {workspace}/ranks.log"
    return workspace / "runs/small"


def play(chosen: Round, start: Start, workspace: Path, folder: Path, marker: Path) -> list[int]:
    """Starts the ranks once, and gives their exit codes; a signal's is negative."""
    workspace.mkdir(exist_ok=True)
    tree: dict[str, Any] = config_tree(workspace, steps=STEPS, every_steps=EVERY, stage=chosen.stage)
    muon = chosen.optimizer == "muon"
    tree["train"]["optimizer"] |= {"kind": chosen.optimizer, **({"gradient_clipping": 0.0} if muon else {})}
    tree["train"]["guard"] = {"loss_deviations": 0.0, "grad_norm_deviations": 0.0, "max_rollbacks": 100}
    tree["train"]["checkpoint"]["asynchronous"] = chosen.asynchronous
    tree["train"]["sequence_parallel"] = start.ranks if chosen.shares else 1
    tree["cluster"] = {"processes_per_node": start.ranks}
    config = write_config(workspace / "run.yaml", tree)
    port = free_port()
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(
            target=rank_main,
            args=(config, folder / "corpus", chosen, start.strike, marker, here(rank, start.ranks, port)),
        )
        for rank in range(start.ranks)
    ]
    for rank in ranks:
        rank.start()
    patience_s = 2.0 if start.strike is None or start.strike.how != "kill all" else 0.0
    deadline = time.monotonic() + HUNG_S
    while any(rank.is_alive() for rank in ranks):
        if any(rank.exitcode not in (None, 0, 75) for rank in ranks):  # as launchers do: the others follow
            deadline = min(deadline, time.monotonic() + patience_s)
        if time.monotonic() >= deadline:
            for rank in ranks:
                rank.kill()
        time.sleep(0.01)
    return [int(rank.exitcode or 0) for rank in ranks]


def free_port() -> int:
    """A TCP port that nobody listens on, below 32768, where Linux starts to hand out ports to clients: it stays free."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def here(rank: int, size: int, port: int) -> World:
    """A rank's place among those of this machine."""
    return World(rank=rank, size=size, local_rank=rank, local_size=size, master_addr="127.0.0.1", master_port=port)


def rank_main(config: Path, corpus: Path, chosen: Round, strike: Strike | None, marker: Path, world: World) -> None:
    """One rank, in a process of its own."""
    log = os.open(config.with_name("ranks.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(world_env(world), DS_ACCELERATOR="cpu")
    trouble_comes(config, corpus, chosen, marker)
    if strike is not None and strike.rank == world.rank:
        arm(strike)
    sys.exit(train_small.main(str(config), str(corpus)))


def arm(strike: Strike) -> None:
    def fall() -> None:
        os.kill(os.getpid(), signal.SIGTERM if strike.how == "notice" else signal.SIGKILL)

    owner, name, _ = POINTS[strike.point]
    if owner is None:
        timer = threading.Timer(strike.call / 1000, fall)
        timer.daemon = True
        timer.start()
        return
    function, calls = getattr(owner, name), 0

    def struck(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        mine = calls == strike.call
        if mine and not strike.after:
            fall()
        result = function(*arguments, **named)
        if mine and strike.after:
            fall()
        return result

    setattr(owner, name, struck)


def trouble_comes(config_path: Path, corpus: Path, chosen: Round, marker: Path) -> None:
    """Makes a step bad as all ranks see it: once in the round, or each time that its data comes."""
    if chosen.trouble == "none":
        return
    take_step: Callable[..., loop.Taken] = loop.take_step
    config, manifest = load_config(config_path), read_manifest(corpus)
    bad_batch = order_of_config(config, manifest).batch_digest(config.batches.positions(BAD_STEP - 1))

    def take_bad_step(training: Any, engine: Any, batch_of: Any, digest_of: Any, done: int, *rest: Any) -> loop.Taken:
        been = marker.exists()
        taken = take_step(training, engine, batch_of, digest_of, done, *rest)
        if digest_of(config.batches.positions(done)).result() != bad_batch:
            return taken
        if chosen.trouble == "machine":
            if been:
                return taken
            dist.barrier()  # all have looked
            marker.touch()
        return replace(taken, figures=replace(taken.figures, loss=float("nan")))

    loop.take_step = take_bad_step  # type: ignore[assignment]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.train.drill")
    parser.add_argument("--minutes", type=float, help="begin no round after so long; 10 if neither is given")
    parser.add_argument("--rounds", type=int, help="so many; the first ten have all stages with both optimizers")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--round", type=int, help="only this one, as a failure names it")
    options = parser.parse_args()
    importlib.import_module("tests.warm_imports")  # for the forks to find
    minutes = options.minutes or (math.inf if options.rounds else 10.0)
    until = time.monotonic() + minutes * 60
    number = first = options.round or 0
    last = first if options.round is not None else first + (options.rounds or sys.maxsize) - 1
    folder = Path(tempfile.mkdtemp(prefix="drill-"))
    small_corpus(folder / "corpus")
    while True:
        try:
            print(f"round {number}: {drill(options.seed, number, folder)}", flush=True)
        except AssertionError as error:
            print(
                f"round {number} FAILED: {error}\n{drawn(options.seed, number)}\nagain: python -m tests.train.drill "
                f"--seed {options.seed} --round {number}",
                flush=True,
            )
            return 1
        if number == last or time.monotonic() >= until:
            print(f"seed {options.seed}: {number + 1 - first} rounds, all as the unbroken runs")
            shutil.rmtree(folder)  # after a failure it stays
            return 0
        number += 1


if __name__ == "__main__":
    raise SystemExit(main())
