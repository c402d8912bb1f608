"""Which checkpoints may go."""

from collections.abc import Collection


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
