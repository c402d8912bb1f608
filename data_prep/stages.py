"""Runs a stage: finds which of its tasks are recorded as done, has a crew do the others, and reports progress.

A task's record is named by a digest of all that its result depends on. So "is it done?" and "is it still right?" are
one question, and a build takes over whatever an earlier one, of this config or another, has left.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

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


@dataclass(frozen=True)
class Batch(Generic[Record]):
    """The tasks of a stage."""

    record_type: type[Record]
    tasks: Sequence[Task]
    is_there: Callable[[Record], bool] = lambda _: True
    """Whether what a record stands for still exists."""


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
        return self.run_together(Batch(record_type, tasks, is_there))[0]

    def run_together(self, *batches: "Batch[Any]") -> list[list[Any]]:
        """The records of several stages that need nothing of each other; the last gives progress its name."""
        work, tasks = self.work, [one for batch in batches for one in batch.tasks]
        if not tasks:
            return [[] for _ in batches]
        stage, names = tasks[-1].name.partition("/")[0], [one.name for one in tasks]
        assert len(set(names)) == len(names), f"two tasks of {stage} depend on the same and are not the same"
        self.used.update(names)
        records: dict[str, Any] = {}
        for batch in batches:
            for one in batch.tasks:
                with contextlib.suppress(FileNotFoundError):
                    record = work.read_record(batch.record_type, one.name)
                    if batch.is_there(record):
                        records[one.name] = record
                        self._count(record)
        self._tell(stage, len(records), len(tasks))
        missing = [one for one in tasks if one.name not in records]
        for place, record in self.crew.run([(one.function, (work, one.name, *one.arguments)) for one in missing]):
            records[missing[place].name] = record
            self._count(record)
            self._tell(stage, len(records), len(tasks))
        return [[records[one.name] for one in batch.tasks] for batch in batches]

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
