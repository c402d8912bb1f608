"""Where a run's batches come from: this machine's shards, or the remote's by way of a cache."""

from pathlib import Path

from pipeline.data.corpus_shards import CorpusShards, LocalShards
from pipeline.data.loader import Loader
from pipeline.data.order import Order
from pipeline.data.shard_cache import ShardCache, check_budget, default_folder
from pipeline.durable import check_shards, lacks_shards, remote_of
from pipeline.train.engine import host_buffer
from pipeline.train.training import Training


def check_corpus(training: Training) -> None:
    """Raises Mistake if the shards are nowhere to be had, or the cache's budget is too small for them."""
    check_shards(training.config, training.corpus)
    if training.config.data.cache_bytes is not None:
        check_budget(training.config.data.cache_bytes, training.manifest)


def loader_of(training: Training, order: Order) -> Loader:
    """This rank's part of each batch."""
    config, world = training.config, training.world
    return Loader(
        shards_of(training, order),
        training.manifest,
        order,
        rank=config.train.data_rank(world.rank),
        world_size=config.train.data_ranks(world.size),
        batches=config.batches,
        micro_batch_size=config.train.micro_batch_size,
        allocate=host_buffer,
    )


def shards_of(training: Training, order: Order) -> CorpusShards:
    """Those in the workspace; if it has none, those at the remote, by way of this machine's cache."""
    config, corpus, manifest = training.config, training.corpus, training.manifest
    remote, budget_bytes = remote_of(config), config.data.cache_bytes
    if remote is None or budget_bytes is None or not lacks_shards(corpus):
        return LocalShards(corpus, manifest)
    folder = Path(config.data.cache_folder) if config.data.cache_folder else default_folder()
    return ShardCache(remote.at(f"corpora/{corpus.name}/shards").url, folder, budget_bytes, manifest, order)
