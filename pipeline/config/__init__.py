"""RunConfig: a whole run, from raw text to promotion, as one frozen tree.

    YAML file ──> nested dicts ──> dotted overrides ──> RunConfig (validated, frozen) ──> check(): do the parts fit?
    └────────────── yaml_text.py, file.py ──────────────┘      tree.py                       checks.py

Loading validates at the edge, so that everything behind it can trust what it gets. An unknown key is an error that
names the nearest valid one. Nothing here imports torch, ray or deepspeed.
"""

from pipeline.config.changes import changed_keys
from pipeline.config.checks import check_batch, check_model, check_sequence_parallel
from pipeline.config.file import load_config
from pipeline.config.tree import (
    MODEL_EXECUTION,
    MODEL_OPTIONS,
    GuardConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
    ZeroConfig,
    model_said,
    model_shaping,
    weight_shaping,
)

__all__ = [
    "MODEL_EXECUTION",
    "MODEL_OPTIONS",
    "GuardConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainConfig",
    "ZeroConfig",
    "changed_keys",
    "check_batch",
    "check_model",
    "check_sequence_parallel",
    "load_config",
    "model_said",
    "model_shaping",
    "weight_shaping",
]
