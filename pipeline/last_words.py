"""What a job that failed says of it: one line out of its log."""

import re
from collections.abc import Sequence

from pipeline.workspace import RunFolder

_OURS = "headrace: "
_OF_THE_LAUNCHER = re.compile(r"headrace: job \S+ (starts|ended with|is back)\b")
"""What stands around a job's own lines (cluster/supervise.py, cluster/batch_body.py, cluster/ray_entry.py)."""


def last_words(folder: RunFolder) -> str:
    """What the run's job said last, in one line, and where the rest is."""
    log = folder.job / "log.txt"
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return f"it left no log at {log}"
    return f"{reason(lines)} (all of it: {log})"


def reason(lines: Sequence[str]) -> str:
    """Of a log, what its last job said of its failure: its last line of ours, which a mistake ends in, or the last with
    an exception's name, or just the last.

    >>> reason(["headrace: job 7 starts", "headrace: train.tokens=0: too few", "headrace: job 7 ended with 2"])
    'train.tokens=0: too few'
    """
    own: list[str] = []
    for line in map(str.strip, lines):
        found = _OF_THE_LAUNCHER.match(line)
        if found and found[1] == "starts":
            own = []  # the log goes on from job to job
        elif line and not found:
            own.append(line)
    ours = [line for line in own if line.startswith(_OURS)] or [line for line in own if "Error" in line]
    return (ours or own or ["it printed nothing"])[-1].removeprefix(_OURS)
