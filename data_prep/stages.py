"""Runs a stage: finds which of its tasks are recorded as done, has a crew do the others, and reports progress.

A task's record is named by a digest of all that its result depends on. So "is it done?" and "is it still right?" are
one question, and a build takes over whatever an earlier one, of this config or another, has left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from data_prep.crew import Crew
from data_prep.files import digest
from data_prep.manifest import ShardRecord, sidecar_name
from data_prep.parts import EncodeRecord, SelectRecord
from data_prep.plan import Plan
from data_prep.work import Work

Record = TypeVar("Record")


@dataclass(frozen=True)
class Task:
    """A function (work, name, *arguments) -> record, which writes its files and then its record as `name`."""

    name: str
    """`stage/key`: the key is a digest of all that the result depends on."""
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def task(stage: str, function: Callable[..., Any], *arguments: Any, depends_on: Any) -> Task:
    """A task named by what it depends on, a JSON-able value."""
    return Task(f"{stage}/{digest(depends_on)[:32]}", function, arguments)


def names_of(tasks: Sequence[Task]) -> tuple[str, ...]:
    return tuple(one.name for one in tasks)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a build is, for whoever shows it."""

    stage: str
    done: int
    total: int
    """Tasks of the stage."""
    documents: int
    """Documents read so far, whatever became of them."""
    text_bytes: int
    """Text read and not dropped so far."""
    tokens: int
    """Tokens encoded so far."""


@dataclass
class Stages:
    """The build's way to its tasks. Holds what progress has to add up over the stages, and the names that were used."""

    plan: Plan
    crew: Crew
    report: Callable[[Progress], None] | None
    used: set[str] = field(default_factory=set)
    """`stage/name` of every record."""
    _documents: int = 0
    _text_bytes: int = 0
    _tokens: int = 0

    @property
    def work(self) -> Work:
        return Work(self.plan.work, self.plan.folder, self.plan.config, self.plan.tasks_digest)

    def run(
        self, record_type: type[Record], tasks: Sequence[Task], is_there: Callable[[Record], bool] = lambda _: True
    ) -> list[Record]:
        """The records of all tasks of a stage, in order. `is_there` tells if what a record stands for still exists."""
        if not tasks:
            return []
        work, names, stage = self.work, [one.name for one in tasks], tasks[0].name.partition("/")[0]
        assert len(set(names)) == len(names), f"two tasks of {stage} depend on the same and are not the same"
        self.used.update(names)
        records: dict[int, Record] = {}
        for place, name in enumerate(names):
            try:
                record = work.read_record(record_type, name)
            except FileNotFoundError:
                continue
            if is_there(record):
                records[place] = record
                self._count(record)
        self._tell(stage, len(records), len(tasks))
        missing = [place for place in range(len(tasks)) if place not in records]
        pending = [(tasks[place].function, (work, tasks[place].name, *tasks[place].arguments)) for place in missing]
        for done, record in self.crew.run(pending):
            records[missing[done]] = record
            self._count(record)
            self._tell(stage, len(records), len(tasks))
        return [records[place] for place in range(len(tasks))]

    def _count(self, record: object) -> None:
        if isinstance(record, SelectRecord):
            self._documents += record.documents_read
            self._text_bytes += sum(part.text_bytes for part in record.parts)
        elif isinstance(record, EncodeRecord):
            self._tokens += record.num_tokens

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self.report is not None:
            self.report(
                Progress(
                    stage=stage,
                    done=done,
                    total=total,
                    documents=self._documents,
                    text_bytes=self._text_bytes,
                    tokens=self._tokens,
                )
            )


def shard_is_there(plan: Plan, shard: ShardRecord) -> bool:
    """Whether a recorded shard still lies in the corpus's folder; the folder may have been removed, work not."""
    path = plan.folder / "shards" / shard.name
    return (
        path.is_file()
        and path.stat().st_size == shard.size_bytes
        and path.with_name(sidecar_name(shard.name)).is_file()
    )
