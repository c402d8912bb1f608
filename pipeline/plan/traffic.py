"""What ranks that share sequences send each other, as arithmetic on the config."""

from pipeline.plan.memory import Forward, blocks_again


def exchanged_bytes(one: Forward) -> int:
    """What a rank puts into the all-to-alls of one micro-batch, its own part included: a slice's queries, keys, values
    and outputs, their gradients, and all once more where attention is computed again."""
    if one.peers == 1:
        return 0
    once = one.positions * 2 * (one.model.width + one.key_value_width) * one.element_bytes
    return (2 * one.model.layers + blocks_again(one.model)) * once
