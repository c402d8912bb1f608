"""A run's config made small: the same options in a model that trains a step in a blink.

What shrinks is width, depth, vocabulary and sequence length. What stays is what ZeRO and the layers could get wrong:
how many query heads share a key head, tied or not, every option, micro-batch, optimizer, precision and all of
`train.zero`. The reduce bucket shrinks with the model, so that as many buckets fill as in the real one.
"""

from dataclasses import replace

from pipeline.config import ModelConfig, RunConfig
from pipeline.plan.shape import count_parameters

LAYERS, HEAD_SIZE, KV_HEADS, VOCABULARY, POSITIONS, ACCUMULATION = 2, 32, 2, 512, 128, 8
"""At most these, but for what ranks that share a sequence need. flex_attention wants heads of 16 numbers or more."""


def small_model(model: ModelConfig, positions: int, peers: int = 1) -> ModelConfig:
    """positions: of one micro-batch on one rank. peers: ranks that share a sequence and its heads. Compiling stays out:
    it takes longer than all the rest, and rounds differently."""
    kv_heads = model.kv_heads or model.heads
    sharing, few = model.heads // kv_heads, min(kv_heads, max(KV_HEADS, peers))
    width = sharing * few * min(model.width // model.heads, HEAD_SIZE)
    shrinks = width / model.width
    return replace(
        model,
        layers=min(model.layers, LAYERS),
        width=width,
        heads=sharing * few,
        kv_heads=None if model.kv_heads is None else few,
        mlp_width=None if model.mlp_width is None else max(8, round(model.mlp_width * shrinks)),
        base_width=None if model.base_width is None else max(1, round(model.base_width * shrinks)),
        loss_chunk_size=None if model.loss_chunk_size is None else min(model.loss_chunk_size, max(1, positions // 2)),
        compile="none",
    )


def small_run(config: RunConfig, world_size: int, vocab_size: int) -> RunConfig:
    """vocab_size: of the real model; `VOCABULARY` is taken if it is larger. Raises nothing: the batch must fit the
    world already (`check_batch`)."""
    train, peers = config.train, config.train.sequence_parallel
    length = min(config.data.sequence_length, -(-POSITIONS // peers) * peers)
    model = small_model(config.model, train.micro_batch_size * length // peers, peers)
    at_once = train.micro_batch_size * train.data_ranks(world_size)
    accumulation = min(train.global_batch_size // at_once, ACCUMULATION)
    real = count_parameters(config.model, vocab_size).total
    few = count_parameters(model, min(vocab_size, VOCABULARY)).total
    zero = replace(train.zero, reduce_bucket_size=max(1, few * train.zero.reduce_bucket(real) // real))
    return replace(
        config,
        model=model,
        data=replace(config.data, sequence_length=length),
        train=replace(train, global_batch_size=at_once * accumulation, batch_warmup=(), zero=zero),
    )
