"""The registry's files: the lock, the alias files and the reports; what is in them is decided elsewhere.

The journal is written first and the alias file after it, so a crash can only leave an alias file that lags.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.files import read_record, write_record
from pipeline.evaluate.report import EvalReport, read_report, write_report
from pipeline.promote.alias import Alias, AliasState, alias_names, replay
from pipeline.promote.chain import BrokenRegistry, Entry, read_chain


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Entry, ...]]:
    """Holds the registry's lock, with alias files brought up to date; yields the entries.

    The lock is the kernel's and dies with its process, so a killed holder blocks nobody.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = read_chain(folder)
        repair_aliases(folder, entries)
        yield entries


def repair_aliases(folder: Path, entries: tuple[Entry, ...]) -> tuple[str, ...]:
    """Rewrites alias files that lag behind the journal after a crash, and returns their names. Needs the lock.

    Raises BrokenRegistry if an alias file says what the journal never said: that is no crash.
    """
    repaired = []
    stored = {path.stem for path in folder.glob("aliases/*.json")}
    for name in sorted(stored.union(alias_names(entries))):
        state = replay(entries, name)
        if stored_alias(folder, name, entries) != state.alias():
            write_alias(folder, state)
            repaired.append(name)
    return tuple(repaired)


def stored_alias(folder: Path, name: str, entries: tuple[Entry, ...]) -> Alias | None:
    """What an alias's file says. Raises BrokenRegistry unless it is what the journal says now or said before."""
    path = alias_path(folder, name)
    try:
        stored = read_record(Alias, path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise BrokenRegistry(f"{error}; delete it, it is rebuilt from the journal") from error
    state = AliasState(name=name)
    for entry in entries:
        if entry.alias == name:
            state = state.after(entry)
            if state.alias() == stored:
                return stored
    raise BrokenRegistry(
        f"{path} points to step {stored.checkpoint.step} at generation {stored.generation}, which the journal "
        "never said; the alias was changed by hand, or the journal was cut"
    )


def alias_path(folder: Path, name: str) -> Path:
    return folder / "aliases" / f"{name}.json"


def write_alias(folder: Path, state: AliasState) -> None:
    alias = state.alias()
    if alias is not None:
        write_record(alias_path(folder, state.name), alias)


def report_path(folder: Path, report: str) -> Path:
    return folder / "reports" / f"{report}.json"


def store_report(folder: Path, report: EvalReport) -> None:
    path = report_path(folder, report.digest)
    if not path.exists():
        write_report(path, report)


def load_report(folder: Path, report: str) -> EvalReport:
    """A promotion's evidence. Raises BrokenRegistry if it is gone, or not the report of that digest."""
    path = report_path(folder, report)
    try:
        found = read_report(path)
    except FileNotFoundError as error:
        raise BrokenRegistry(f"{path} is gone; restore it from a copy") from error
    except ValueError as error:
        raise BrokenRegistry(str(error)) from error
    if found.digest != report:
        raise BrokenRegistry(f"{path} holds another report, {found.digest[:12]}")
    return found
