"""Real clusters on this machine for tests: a Slurm of two nodes and a Ray of two nodes, each up for one `with` block.

with short_folder() as folder, slurm_lab(folder): ...                # SLURM_CONF is set inside
with short_folder() as folder, ray_cluster(folder) as address: ...   # RAY_AUTH_TOKEN too
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock
from urllib.request import Request, urlopen
from uuid import uuid4

from cluster.ray_jobs import auth_headers

LAB = Path(__file__).parents[1] / "slurm" / "lab"


def wait_for(holds: Callable[[], bool], what: str, *, timeout_s: float = 300) -> None:
    """Polls until it holds. Raises TimeoutError, saying what did not come true; a job on Ray takes two minutes where
    several others want the same cores."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(0.05)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder whose path leaves room for the names of Unix sockets; pytest's own folders do not."""
    folder = Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_block(first: int, size: int) -> int:
    """The start of `size` ports in a row that nobody listens on, at `first` or after it: several people may test on one
    machine."""
    for base in range(first, 32000, size):
        if not any(listens(port) for port in range(base, base + size)):
            return base
    raise RuntimeError(f"no {size} free ports in a row between {first} and 32000")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def why_no_slurm() -> str | None:
    """The reason why no Slurm can run here, or None. It needs its programs, or root and apt to install them."""
    if all(
        shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin") for name in ("slurmctld", "slurmd", "sbatch")
    ):
        return None
    if os.getuid() == 0 and shutil.which("apt-get"):
        return None
    return "Slurm is not installed, and only root on Debian or Ubuntu can let slurm/lab/up install it"


@contextmanager
def slurm_lab(folder: Path, *, nodes: int = 2) -> Iterator[Path]:
    """A Slurm of its own, with the partitions main, low (preemptible) and high. The folder's path must be short: Unix
    sockets lie in it. Yields the folder."""
    port = free_block(17200, nodes + 1)
    started = subprocess.run(
        [LAB / "up", "-n", str(nodes), "-p", str(port), folder], capture_output=True, text=True, check=False
    )
    try:
        assert started.returncode == 0, f"slurm/lab/up failed:\n{started.stderr}"
        with mock.patch.dict(os.environ, {"SLURM_CONF": str(folder / "etc" / "slurm.conf")}):
            yield folder
    finally:
        subprocess.run([LAB / "down", "--purge", folder], check=True, capture_output=True)


@contextmanager
def ray_cluster(folder: Path, *, nodes: int = 2, cpus_per_node: int = 2) -> Iterator[str]:
    """A Ray cluster of its own, with a dashboard for the Jobs API on 127.0.0.1. The folder's path must be short. Yields
    the dashboard's address."""
    port = free_block(30000, 100 * (nodes + 1))  # where no job of ours looks for a rendezvous
    head, dashboard = f"127.0.0.1:{port}", port + 1
    # Ray turns 127.0.0.1 into an address that others can reach: only who has the token may use this cluster.
    as_head = [
        f"--port={port}",
        "--include-dashboard=true",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={port + 2}",
        f"--temp-dir={folder}",
    ]
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {"RAY_AUTH_TOKEN": uuid4().hex}))
        for node in range(nodes):
            first = port + 100 * (node + 1)
            arguments = [
                *(["--head", *as_head] if node == 0 else [f"--address={head}"]),
                "--node-ip-address=127.0.0.1",
                f"--num-cpus={cpus_per_node}",
                f"--object-store-memory={80 * 2**20}",
                f"--dashboard-agent-listen-port={first}",
                f"--min-worker-port={first + 1}",
                f"--max-worker-port={first + 99}",
                "--disable-usage-stats",
                "--block",
            ]
            stack.enter_context(ray_node(arguments, folder.with_name(f"{folder.name}-node{node}.log")))
            wait_for(lambda nodes=node + 1: alive_nodes(dashboard) == nodes, f"node {node} of the Ray cluster")
        yield f"http://127.0.0.1:{dashboard}"


@contextmanager
def ray_node(arguments: list[str], log: Path) -> Iterator[None]:
    """One `ray start --block`, which ends what it started, and nothing else, when it is told to."""
    with log.open("wb") as output:
        node = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", *arguments],
            env={**os.environ, "RAY_AUTH_MODE": "token"},
            stdout=output,
            stderr=output,
        )
        try:
            yield
        finally:
            node.terminate()
            node.wait(timeout=60)


def alive_nodes(dashboard: int) -> int:
    """How many nodes the cluster has; 0 while its dashboard does not answer."""
    try:
        url = f"http://127.0.0.1:{dashboard}/nodes?view=summary"
        with urlopen(Request(url, headers=auth_headers(os.environ, Path.home())), timeout=10) as answer:
            nodes = json.load(answer)["data"]["summary"]
    except OSError:
        return 0
    return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)
