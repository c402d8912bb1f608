"""What every rank imports, for the process that ranks are forked from. It starts no threads, which a fork would lose."""

import importlib
import os

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}
for name in (
    "deepspeed",
    "pipeline.cli",
    "pipeline.evaluate.stage",
    "pipeline.train.loop",
    "torch._dynamo",
    "torch._inductor.compile_fx",
):
    importlib.import_module(name)

importlib.import_module("pipeline.train.optim").muon_class()
