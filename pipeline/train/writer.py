"""Which job may store a run's checkpoints: the one that has started last.

Two workspaces may train one run at once, neither knowing of the other: a job that was sent again from elsewhere while
the first was thought dead. Their files would meet in one folder of the remote, under a record that fits neither. Stores
have no locks; a name that each job leaves when it starts, and reads before each file that it stores, is enough where
jobs live for hours: only a file that is on its way at that moment still arrives (docs/design/0015 says what it may do).
The one that was there first trains on, and says that it no longer stores.
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from cluster.processes import host_name
from data_prep.files import canonical_json, parse_record
from pipeline.errors import PipelineError
from pipeline.remote import RemoteFolder

WRITER_NAME = "writer.json"


@dataclass(frozen=True, kw_only=True)
class Writer:
    """`writer.json` of a run at the remote."""

    id: str
    host: str
    since: str
    """When the job began to store, by its own clock; for people."""


def take_over(remote: RemoteFolder) -> Writer:
    """Makes this job the one that stores. `remote` is the run's folder. Raises DataError if the store stays away."""
    writer = Writer(id=uuid.uuid4().hex, host=host_name(), since=datetime.now(UTC).isoformat(timespec="seconds"))
    remote.write(WRITER_NAME, canonical_json(writer))
    return writer


def check_writer(remote: RemoteFolder, writer: Writer | None) -> None:
    """Raises PipelineError if another job has taken over since. A record of it that is gone or torn names nobody; and
    None is someone who stores without having taken over."""
    if writer is None:
        return
    data = remote.read(WRITER_NAME)
    try:
        there = parse_record(Writer, data or b"", WRITER_NAME)
    except ValueError:
        return
    if there.id != writer.id:
        raise PipelineError(
            f"{remote.url}: a job on {there.host} has stored this run's checkpoints since {there.since}, and this job "
            "no longer does; end one of the two"
        )
