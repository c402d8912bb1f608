"""What can go wrong while a corpus is built or read, and what the command line makes of it.

DataError                 exit code 3: the work failed
└── DataMistake           exit code 2: the user can mend it; the message says what, where and what to do
"""


class DataError(Exception):
    """The work failed. What was recorded as complete is still complete."""

    exit_code = 3


class DataMistake(DataError):
    """The user's config or input is at fault. The message is one line: what, where, what to do."""

    exit_code = 2
