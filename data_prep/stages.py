"""Runs a stage: finds which of its tasks are recorded as done, has a crew do the others, and reports progress."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data_prep.crew import Crew
from data_prep.files import read_record
from data_prep.manifest import ShardRecord, sidecar_name
from data_prep.parts import EncodeRecord, ReadRecord, Work
from data_prep.plan import Plan

Record = TypeVar("Record")
Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function (work, record path, *arguments) -> record, and those arguments."""


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


class Stages:
    """The build's way to its tasks. Holds what progress has to add up over the stages."""

    def __init__(self, plan: Plan, crew: Crew, report: Callable[[Progress], None] | None) -> None:
        self.plan = plan
        self.work = Work(plan.scratch, plan.folder, plan.config)
        self._crew = crew
        self._report = report
        self._documents = self._text_bytes = self._tokens = 0

    def run(
        self,
        stage: str,
        record_type: type[Record],
        calls: Sequence[Call],
        is_there: Callable[[Record], bool] = lambda _: True,
    ) -> list[Record]:
        """The records of all calls, in order. `is_there` tells if what a record stands for still exists."""
        folder = self.work.scratch / stage
        records: dict[int, Record] = {}
        for place in range(len(calls)):
            try:
                record = read_record(record_type, folder / _record_name(place))
            except FileNotFoundError:
                continue
            if is_there(record):
                records[place] = record
        for record in records.values():
            self._count(record)
        self._tell(stage, len(records), len(calls))
        missing = [place for place in range(len(calls)) if place not in records]
        pending = [(calls[place][0], (self.work, folder / _record_name(place), *calls[place][1])) for place in missing]
        for done, record in self._crew.run(pending):
            records[missing[done]] = record
            self._count(record)
            self._tell(stage, len(records), len(calls))
        return [records[place] for place in range(len(calls))]

    def _count(self, record: object) -> None:
        if isinstance(record, ReadRecord):
            self._documents += record.documents_read
            self._text_bytes += sum(part.text_bytes for part in record.parts)
        elif isinstance(record, EncodeRecord):
            self._tokens += record.num_tokens

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self._report is not None:
            self._report(
                Progress(
                    stage=stage,
                    done=done,
                    total=total,
                    documents=self._documents,
                    text_bytes=self._text_bytes,
                    tokens=self._tokens,
                )
            )


def _record_name(place: int) -> str:
    return f"{place:06d}.json"


def shard_is_there(folder: Path, shard: ShardRecord) -> bool:
    """Whether a recorded shard still lies in the corpus's folder; the folder may have been removed, scratch not."""
    path = folder / "shards" / shard.name
    return (
        path.is_file()
        and path.stat().st_size == shard.size_bytes
        and path.with_name(sidecar_name(shard.name)).is_file()
    )
