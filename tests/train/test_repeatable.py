"""What makes a GPU repeat its bits is in force before anything is computed or compiled."""

import json
import os
import subprocess
import sys

JOINED = """
import json, os
from cluster.world import world_from_env
from pipeline.train import loop
from pipeline.train.engine import join_world
join_world(world_from_env({}))
import torch, torch._inductor.config
print(json.dumps([
    torch.are_deterministic_algorithms_enabled(),
    torch.is_deterministic_algorithms_warn_only_enabled(),
    torch.utils.deterministic.fill_uninitialized_memory,
    torch._inductor.config.deterministic,
    os.environ["CUBLAS_WORKSPACE_CONFIG"],
]))
"""


def test_a_rank_that_has_joined_repeats_its_bits() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("CUBLAS", "TORCHINDUCTOR"))}
    done = subprocess.run([sys.executable, "-c", JOINED], env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [True, True, False, True, ":4096:8"]
