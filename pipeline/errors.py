"""What can go wrong in training, evaluation and promotion, and the exit code of each.

    PipelineError             exit code 3: the work failed
    ├── Mistake               exit code 2: the user can mend it; the message says what, where and what to do
    ├── CorruptCheckpoint     exit code 3: a file does not match the record that covers it
    ├── GateRefused           exit code 4: the gate said no
    └── StoppedOnNotice       exit code 75: stopped by a signal after a save; run again to resume

`data_prep.errors` and `cluster.errors` have their own small trees with the same `exit_code`, because those
packages import nothing of this one. `HEADRACE_ERRORS` is what the command line turns into one line.
"""

from cluster.errors import ClusterError
from data_prep.errors import DataError


class PipelineError(Exception):
    """The work failed. What was recorded as complete is still complete."""

    exit_code = 3


class Mistake(PipelineError):
    """The user's config, arguments or files are at fault. The message is one line: what, where, what to do."""

    exit_code = 2


class CorruptCheckpoint(PipelineError):
    """A checkpoint's file is missing, torn or changed; the message names the file."""


class GateRefused(PipelineError):
    """The gate found no proof that the candidate is better."""

    exit_code = 4


class StoppedOnNotice(PipelineError):
    """A notice to stop came, a checkpoint was saved, and the run can be resumed."""

    exit_code = 75


HEADRACE_ERRORS = (PipelineError, DataError, ClusterError)
