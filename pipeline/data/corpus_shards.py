"""Where the loader finds a corpus's shards: on a disk that it sees, or in a store (`shard_cache.py`)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from data_prep.manifest import ManifestRecord, ShardRecord
from data_prep.pack import Tokens
from data_prep.shards import open_shard

OPEN_SHARDS = 4096
"""Shards kept mapped at once: address space, not memory; the kernel keeps what it likes of their pages."""


class CorpusShards(Protocol):
    """A seam because a shard in a store has to be fetched, kept from eviction while it is read, and let go."""

    def opened(self, shard: ShardRecord) -> AbstractContextManager[Tokens]:
        """The shard's tokens, (num_sequences, sequence_length), which are not used after the block's end."""

    def prepare(self, position: int) -> None:
        """Hears that the order's positions from this one on will be read next. Does not wait."""

    def close(self) -> None: ...


class LocalShards:
    """The shards of a corpus folder. They stay mapped from one use to the next."""

    def __init__(self, corpus: Path, manifest: ManifestRecord) -> None:
        @lru_cache(maxsize=OPEN_SHARDS)
        def tokens_of(shard: ShardRecord) -> Tokens:
            return open_as_recorded(corpus / "shards" / shard.name, shard, manifest)

        self._tokens_of = tokens_of

    @contextmanager
    def opened(self, shard: ShardRecord) -> Iterator[Tokens]:
        yield self._tokens_of(shard)

    def prepare(self, position: int) -> None:
        pass

    def close(self) -> None:
        self._tokens_of.cache_clear()


def open_as_recorded(path: Path, shard: ShardRecord, manifest: ManifestRecord) -> Tokens:
    """The mapped tokens of a shard's file. Raises ValueError if it is not as long as its record says."""
    tokens = open_shard(path, manifest)
    if len(tokens) != shard.num_sequences:
        raise ValueError(
            f"{path} has {len(tokens)} sequences, and the manifest says {shard.num_sequences}; "
            "fetch it again or run prep again"
        )
    return tokens
