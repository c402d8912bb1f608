"""What can go wrong while a job is sent, watched or ended, and what the command line makes of it.

ClusterError              exit code 3: the launcher failed
└── ClusterMistake        exit code 2: the user can mend it; the message says what, where and what to do
"""


class ClusterError(Exception):
    """The launcher or the scheduler behind it failed."""

    exit_code = 3


class ClusterMistake(ClusterError):
    """The user's config or machine is at fault. The message is one line: what, where, what to do."""

    exit_code = 2
