"""What all tests stand on: the clusters that those of launchers share, for starting one takes longer than most tests,
and what may differ between two places where tests are run."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.labs import ray_cluster, short_folder, slurm_lab, why_no_slurm

# A loaded machine is no failure: how fast something is, benchmarks say.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# As in a terminal, also where a shell has started this in the background: it ignores Ctrl-C there, and so would all
# that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """A Slurm of two nodes; its folder. Skips only where none can run."""
    if reason := why_no_slurm():
        pytest.skip(reason)
    with short_folder() as folder, slurm_lab(folder):
        yield folder


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A Ray cluster of two nodes; its dashboard's address."""
    with short_folder() as folder, ray_cluster(folder / "ray") as address:
        yield address
