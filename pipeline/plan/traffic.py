"""What ranks that share sequences send each other, as arithmetic on the config."""

from typing import Literal

from pipeline.config import ModelConfig
from pipeline.plan.memory import ELEMENT_BYTES, blocks_again
from pipeline.plan.shape import key_value_width


def exchanged_bytes(
    model: ModelConfig, micro_batch_size: int, sequence_length: int, precision: Literal["fp32", "bf16"], peers: int
) -> int:
    """What a rank puts into the all-to-alls of one micro-batch, its own part included: a slice's queries, keys, values
    and outputs, their gradients, and all once more where attention is computed again."""
    if peers == 1:
        return 0
    positions = micro_batch_size * sequence_length // peers
    copies = max(1, peers // (model.kv_heads or model.heads))
    once = positions * 2 * (model.width + copies * key_value_width(model)) * ELEMENT_BYTES[precision]
    return (2 * model.layers + blocks_again(model)) * once
