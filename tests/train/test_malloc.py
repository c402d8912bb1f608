"""Freed memory is kept: counted in the pages that the kernel has to clear in a step of training."""

import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
if sys.argv[1] == "keep":
    from pipeline.train.malloc import keep_freed_memory
    keep_freed_memory()
model = torch.nn.Sequential(*(torch.nn.Linear(3000, 3000) for _ in range(4)))
cleared = []
for step in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    model(torch.ones(100, 3000)).sum().backward()
    model.zero_grad()
    cleared.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(cleared[2:]))  # glibc may lose a place of the size that it needs to something small, and find it again later
"""


def pages_cleared(how: str) -> int:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", STEPS, how], env=env, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_a_step_takes_the_memory_of_the_step_before() -> None:
    gradients = 4 * 3000 * 3000 * 4 // 4096
    assert pages_cleared("keep") < gradients / 10
    assert pages_cleared("give back") > gradients / 2
