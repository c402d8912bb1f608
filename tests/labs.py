"""Real clusters on this machine for tests: a Slurm of two nodes and a Ray of two nodes, each up for one `with` block.

with slurm_lab(folder, port=17200): ...            # SLURM_CONF is set inside
with ray_cluster(folder, port=26400) as address: ...
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock
from urllib.request import urlopen

LAB = Path(__file__).parents[1] / "slurm" / "lab"


def wait_for(holds: Callable[[], bool], what: str, *, timeout_s: float = 120) -> None:
    """Polls until it holds. Raises TimeoutError, saying what did not come true."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(0.05)


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
def slurm_lab(folder: Path, *, port: int, nodes: int = 2) -> Iterator[Path]:
    """A Slurm of its own, with the partitions main, low (preemptible) and high. The folder's path must be short: Unix
    sockets lie in it. Yields the folder."""
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
def ray_cluster(folder: Path, *, port: int, nodes: int = 2, cpus_per_node: int = 2) -> Iterator[str]:
    """A Ray cluster of its own, with a dashboard for the Jobs API, all on 127.0.0.1. It uses some of the thousand ports
    from `port` on; the folder's path must be short. Yields the dashboard's address."""
    head, dashboard = f"127.0.0.1:{port}", port + 1
    as_head = [
        f"--port={port}",
        "--include-dashboard=true",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={port + 2}",
        f"--temp-dir={folder}",
    ]
    with ExitStack() as stack:
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
            wait_for(lambda: alive_nodes(dashboard) == node + 1, f"node {node} of the Ray cluster", timeout_s=90)  # noqa: B023
        yield f"http://127.0.0.1:{dashboard}"


@contextmanager
def ray_node(arguments: list[str], log: Path) -> Iterator[None]:
    """One `ray start --block`, which ends what it started, and nothing else, when it is told to."""
    with log.open("wb") as output:
        node = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", *arguments],
            # No token, though Ray asks for one by default where it finds one: a process keeps its first token for good,
            # so a test run that has used another Ray before could not talk to this one. It listens on 127.0.0.1 only.
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
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
        with urlopen(f"http://127.0.0.1:{dashboard}/nodes?view=summary", timeout=10) as answer:
            nodes = json.load(answer)["data"]["summary"]
    except OSError:
        return 0
    return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)
