"""Which checkpoints may go, here and at the remote, and which of the folders that were set aside."""

import re
from collections.abc import Collection

from pipeline.workspace import step_of

_KINDS = ("rewound", "corrupt")
_WHY = re.compile(r"(corrupt|rewound)(?:-(\d+))?")


def checkpoints_to_delete(steps: Collection[int], keep_last: int, protected: Collection[int]) -> tuple[int, ...]:
    """The steps whose checkpoints may be deleted, in ascending order: all but the last `keep_last` and the protected.

    Protected is what an alias, a recent promotion, a running evaluation or a resume refers to; the caller knows these.
    A protected checkpoint does not use up a place among the last, so protecting an old one never costs a new one.
    The newest checkpoint is always kept, also with `keep_last=0`: without it a run could not be resumed.
    """
    if keep_last < 0:
        raise ValueError(f"keep_last is {keep_last}; it must be at least 0")
    newest_first = sorted(set(steps), reverse=True)
    kept = {*newest_first[: max(keep_last, 1)], *protected}
    return tuple(step for step in reversed(newest_first) if step not in kept)


def local_to_delete(
    steps: Collection[int],
    keep_last: int,
    keep_local: int | None,
    protected: Collection[int],
    uploaded: Collection[int],
) -> tuple[int, ...]:
    """The same for the workspace where a remote holds copies: with `keep_local`, it keeps fewer, but none goes early
    that is not recorded at the remote."""
    outdated = {*checkpoints_to_delete(steps, keep_last, protected)}
    if keep_local is not None:
        outdated |= {*checkpoints_to_delete(steps, keep_local, protected)} & {*uploaded}
    return tuple(sorted(outdated))


def set_aside_to_delete(names: Collection[str], protected: Collection[int]) -> tuple[str, ...]:
    """Of folders set aside, those that may be deleted, sorted: all but what the latest rollback left behind (the
    highest K of `step-N.rewound-K`), the newest damaged one (the highest N of `step-N.corrupt`), and those of protected
    steps.

    What stays is for whoever asks what went wrong last; nothing loads it. Other names are none of ours.
    """
    found = {name: parsed for name in names if (parsed := _parsed(name))}
    latest = {kind: max((age for _, one, age in found.values() if one == kind), default=0) for kind in _KINDS}
    return tuple(
        sorted(name for name, (step, kind, age) in found.items() if age < latest[kind] and step not in protected)
    )


def _parsed(name: str) -> tuple[int, str, int] | None:
    """Of a folder set aside: its step, why it was, and its age in that: the rollback, or the step itself."""
    checkpoint, _, why = name.partition(".")
    step, match = step_of(checkpoint), _WHY.fullmatch(why)
    if step is None or match is None:
        return None
    return step, match[1], int(match[2] or 0) if match[1] == "rewound" else step
