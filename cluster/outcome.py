"""From the codes of the ranks to the exit code of the job.

`python -m cluster.outcome FOLDER ATTEMPT WORLD_SIZE LAUNCHER_CODE` prints it for a batch script.
"""

import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.job import EXIT_STOPPED, attempt_folder, stop_file
from cluster.records import read_json

TERMINATED = frozenset(128 + int(number) for number in (signal.SIGTERM, signal.SIGUSR1))


def outcome(codes: Mapping[int, int], *, world_size: int, launcher_code: int, noticed: bool) -> int:
    """The job's exit code: 0 if every rank ended with 0, 75 if it can simply be run again, else the first failure.

    codes: by rank, in the order in which they ended, from those ranks that recorded it. launcher_code: of torchrun or
    srun, which only knows that something failed. noticed: whether the job was told to stop. After a notice, a rank that
    died of the signal, because it had not come so far as to listen for one, or that was killed when its grace was over,
    takes nothing back that was saved before: the job has stopped, it has not failed.
    """
    failures = [code for code in codes.values() if code not in (0, EXIT_STOPPED)]
    # When one rank fails, its peers lose their connection and fail too, or torchrun terminates them: the first one is
    # the cause.
    causes = [code for code in failures if code not in TERMINATED]
    if causes:
        return causes[0]
    incomplete = len(codes) < world_size
    if noticed and (failures or incomplete):
        return EXIT_STOPPED
    if failures:
        return failures[0]
    if incomplete:
        return launcher_code or 1
    return EXIT_STOPPED if EXIT_STOPPED in codes.values() else 0


def read_codes(attempt: Path) -> dict[int, int]:
    """What the ranks of an attempt recorded, the first to end first."""
    records = [record for path in attempt.glob("rank-*.json") if (record := read_json(path)) is not None]
    records.sort(key=lambda record: (float(record["ended_at"]), int(record["rank"])))
    return {int(record["rank"]): int(record["code"]) for record in records}


def read_outcome(attempt: Path, *, world_size: int, launcher_code: int) -> int:
    noticed = stop_file(attempt).exists()
    return outcome(read_codes(attempt), world_size=world_size, launcher_code=launcher_code, noticed=noticed)


def main(arguments: Sequence[str]) -> int:
    folder, attempt, world_size, launcher_code = arguments
    place = attempt_folder(Path(folder), attempt)
    print(read_outcome(place, world_size=int(world_size), launcher_code=int(launcher_code)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
