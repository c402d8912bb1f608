"""The registry among real processes: two at once, and one that is killed at any instant."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from pipeline.promote.registry import AliasMoved, promote, read_alias, read_entries
from pipeline.promote.verify import verify

from .worlds import CONFIG, add_checkpoint, check_checkpoint, promote_step, report_at

pytestmark = pytest.mark.slow


def racer(workspace: Path, step: int, barrier: Barrier, results: "multiprocessing.Queue[tuple[int, str]]") -> None:
    """Promotes; meets the other one after both have read the registry and before either has decided."""
    report, checkpoint = add_checkpoint(workspace, report_at(step, worse_by=-0.1))

    def meet(folder: Path) -> str:
        barrier.wait(timeout=60)
        return check_checkpoint(folder)

    try:
        entry = promote(workspace, CONFIG, report, checkpoint, check_checkpoint=meet)
        results.put((step, entry.kind))
    except AliasMoved as error:
        results.put((step, str(error)))


def test_two_that_promote_at_once_are_told_apart(tmp_path: Path) -> None:
    promote_step(tmp_path, 100)
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=racer, args=(tmp_path, step, barrier, results)) for step in (200, 300)]
    for process in processes:
        process.start()
    outcome = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    winner, loser = sorted(outcome, key=lambda step: outcome[step] != "promote")
    assert outcome[winner] == "promote"
    assert f"another entry (promote, step {winner} of test, generation 2)" in outcome[loser]
    assert [entry.checkpoint.step for entry in read_entries(tmp_path, "tiny")] == [100, winner]
    verify(tmp_path, "tiny", "production", check_checkpoint)
    assert promote_step(tmp_path, loser, worse_by=-0.1).kind == "refuse", "trying again, it meets the new champion"


def promote_in_a_row(workspace: Path, alias: str, num: int, barrier: Barrier) -> None:
    barrier.wait(timeout=60)
    for step in range(1, num + 1):
        promote_step(workspace, step, worse_by=-0.05 * step, config=replace(CONFIG, alias=alias))


def test_aliases_promoted_side_by_side_share_one_unbroken_chain(tmp_path: Path) -> None:
    """Different aliases never conflict, so only the lock keeps two appends from following the same entry."""
    for step in range(1, 16):
        add_checkpoint(tmp_path, report_at(step))
    spawn = multiprocessing.get_context("spawn")
    barrier, names = spawn.Barrier(3), ("blue", "green", "red")
    processes = [spawn.Process(target=promote_in_a_row, args=(tmp_path, name, 15, barrier)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(read_entries(tmp_path, "tiny")) == 45
    for name in names:
        verify(tmp_path, "tiny", name, check_checkpoint)


def promote_for_ever(workspace: Path) -> None:
    """A promotion after the other, each better than the last; says on stdout what was acknowledged."""
    entries = read_entries(workspace, "tiny")
    done = len([entry for entry in entries if entry.kind == "promote"])
    while True:
        done += 1
        entry = promote_step(workspace, done, worse_by=-0.05 * done)
        os.write(1, f"{entry.checkpoint.step} {entry.generation}\n".encode())


def test_killed_at_any_instant_no_promotion_is_half_done(tmp_path: Path) -> None:
    """After each kill -9: what was acknowledged is there, all of it verifies, and the next process goes on."""
    rng = random.Random(7)
    acknowledged = 0
    script = f"import sys; sys.path[:0] = {sys.path!r}; from pathlib import Path\n"
    script += f"from {__name__} import promote_for_ever; promote_for_ever(Path({str(tmp_path)!r}))"
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        first = process.stdout.readline()  # it is under way; now it dies at a random instant
        try:
            process.wait(timeout=rng.uniform(0.0, 0.1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL
        steps = [int(line.split()[0]) for line in (first + rest).splitlines()]
        assert steps == list(range(steps[0], steps[0] + len(steps)))
        promoted = [entry.checkpoint.step for entry in read_entries(tmp_path, "tiny")]
        assert promoted == list(range(1, len(promoted) + 1))
        assert len(promoted) - steps[-1] in (0, 1), "one may be in the journal and not yet acknowledged"
        assert steps[0] - acknowledged in (1, 2)
        acknowledged = steps[-1]
        verify(tmp_path, "tiny", "production", check_checkpoint)
        alias = read_alias(tmp_path, "tiny", "production")
        assert alias is not None
        assert (alias.checkpoint.step, alias.generation) == (len(promoted), len(promoted))
