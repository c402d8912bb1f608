"""Becomes another program that dies with the process that started it: `python -m cluster.node ARGV...`

For parents that run threads (a Ray worker does): there `preexec_fn` is not safe, so the child arranges it for itself.
"""

import os
import sys

from cluster.processes import dies_with_parent


def main(argv: list[str]) -> None:
    dies_with_parent()()
    os.execv(argv[0], argv)  # noqa: S606 - a shell in between is what it must not be


if __name__ == "__main__":
    main(sys.argv[1:])
