"""The driver of a job on Ray: one torchrun on each of several nodes, their output in one log, one record of the end.

`python -m cluster.ray_entry '{...}'` takes one JSON object with the fields of `Orders`. Ray's Jobs API runs it on the
head. When it ends, Ray ends its workers, and with them, one after the other, what they started.
"""

import json
import os
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.job import attempt_folder, log_file, stop_file, store_exit
from cluster.outcome import read_outcome

LAST_WORDS_S = 30
"""How long the other nodes may go on after one has failed: enough to say why, as Slurm's KillWait."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What submit hands over."""

    id: str
    folder: str
    python: str
    workdir: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    nodes: int
    processes_per_node: int
    cpus_per_node: int
    gpus_per_node: int
    grace_s: int

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def node_argv(orders: Orders, node: int, address: str, port: int) -> list[str]:
    """The command line of one node: its torchrun, or just the rank if there is but one."""
    attempt = attempt_folder(Path(orders.folder), orders.id)
    rank = ["-m", "cluster.rank", str(attempt), *orders.command]
    start = [orders.python, "-m", "cluster.node", orders.python]
    if orders.nodes * orders.processes_per_node == 1:
        return [*start, *rank]
    return [
        *start,
        "-m",
        "torch.distributed.run",
        f"--nnodes={orders.nodes}",
        f"--nproc-per-node={orders.processes_per_node}",
        "--max-restarts=0",
        "--rdzv-backend=static",
        f"--node-rank={node}",
        f"--master-addr={address}",
        f"--master-port={port}",
        *rank,
    ]


def first_port(job_id: str) -> int:
    """Where the search for a rendezvous port begins: 20000 to 29999, another place for each job. That is above Ray's
    own worker ports and below those that Linux hands out to clients."""
    return 20000 + zlib.crc32(job_id.encode()) % 10000


def meeting_point(first: int) -> tuple[str, int]:
    """Run on the first node: its address inside the Ray cluster, and the first port from `first` on that is free."""
    import socket

    import ray

    address = ray.util.get_node_ip_address()
    for port in range(first, first + 1000):
        with socket.socket() as probe:
            if probe.connect_ex((address, port)) != 0:
                return address, port
    raise RuntimeError(f"no free port between {first} and {first + 999} on {address}")


def run_on_node(argv: Sequence[str], env: Mapping[str, str], workdir: str) -> Iterator[bytes | int]:
    """Run on each node: yields what the command prints, as it comes, and its exit code at last.

    The output goes through Ray because not every shared file system lets several nodes append to one file.
    """
    import os
    import subprocess

    pipe = subprocess.Popen(
        argv,
        env={**os.environ, **env},
        cwd=workdir,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    )
    assert pipe.stdout is not None
    while chunk := pipe.stdout.read(1 << 16):
        yield chunk
    yield pipe.wait()


def relay(stream: Any) -> int:
    """Copies a node's output to the log until its end, and returns the exit code."""
    import ray

    code = 1
    for reference in stream:
        item = ray.get(reference)
        if isinstance(item, int):
            code = item
        else:
            os.write(1, item)
    return code


def start_nodes(orders: Orders) -> list[Any]:
    """Sets the nodes aside and starts each one's command. Returns one stream of output a node."""
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    bundle = {"CPU": orders.cpus_per_node, "GPU": orders.gpus_per_node}
    bundle = {name: count for name, count in bundle.items() if count}
    group = placement_group([bundle] * orders.nodes, strategy="STRICT_SPREAD")
    if not group.wait(5):
        print(f"headrace: waits for {orders.nodes} nodes with {bundle} each; Ray has {len(ray.nodes())}", flush=True)
        ray.get(group.ready())

    def on(node: int, cpus: int) -> Mapping[str, Any]:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=node)
        return {
            "scheduling_strategy": strategy,
            "num_cpus": cpus,
            "num_gpus": orders.gpus_per_node if cpus else 0,
            # A node that is lost takes its ranks' state with it: starting its torchrun again would meet nobody.
            "max_retries": 0,
        }

    address, port = ray.get(ray.remote(meeting_point).options(**on(0, 0)).remote(first_port(orders.id)))
    remote = ray.remote(num_returns="streaming")(run_on_node)
    env = {**orders.env, "HEADRACE_JOB_ID": orders.id}
    return [
        remote.options(**on(node, orders.cpus_per_node)).remote(
            node_argv(orders, node, address, port), env, orders.workdir
        )
        for node in range(orders.nodes)
    ]


def failed(node: Future[int]) -> bool:
    return node.exception() is not None or node.result() != 0


def watch(nodes: set[Future[int]], stop: Path, grace_s: float) -> int:
    """Waits for all nodes; when one fails or a notice comes, not longer than is fair to the rest. Returns 0 if all
    ended well, else 1: the ranks' own codes say more."""
    deadline: float | None = None
    waiting = nodes
    while waiting and (deadline is None or time.monotonic() < deadline):
        done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
        for node in done:
            if error := node.exception():
                print(f"headrace: a node was lost: {str(error).splitlines()[0]}", flush=True)
        if deadline is None and any(failed(node) for node in done):
            deadline = time.monotonic() + LAST_WORDS_S
        elif deadline is None and stop.exists():
            deadline = time.monotonic() + grace_s
    if waiting:
        print(f"headrace: {len(waiting)} nodes did not end in time: killed", flush=True)
    return int(bool(waiting) or any(failed(node) for node in nodes))


def main(arguments: Sequence[str]) -> None:
    values = json.loads(arguments[0])
    orders = Orders(**{**values, "command": tuple(values["command"])})
    folder = Path(orders.folder)
    attempt = attempt_folder(folder, orders.id)
    attempt.mkdir(parents=True, exist_ok=True)
    # All that is printed from here on, by Ray too, goes to the job's own log.
    with log_file(folder).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    print(f"headrace: job {orders.id} starts", flush=True)

    import ray

    # The Jobs API names the cluster that the driver belongs to; without it, Ray would look for any cluster nearby.
    assert "RAY_ADDRESS" in os.environ, "to be started by Ray's Jobs API"
    ray.init(log_to_driver=False)
    streams = start_nodes(orders)
    pool = ThreadPoolExecutor(max_workers=orders.nodes)
    nodes = {pool.submit(relay, stream) for stream in streams}
    launcher_code = watch(nodes, stop_file(attempt), orders.grace_s)
    # Ends the workers first: nothing of the job may run when its end is on record.
    ray.shutdown()
    code = read_outcome(attempt, world_size=orders.nodes * orders.processes_per_node, launcher_code=launcher_code)
    print(f"headrace: job {orders.id} ended with {code}", flush=True)
    store_exit(folder, orders.id, code)
    # The threads of nodes that did not end would keep this process alive for ever.
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
