"""A corpus from documents in memory, in one process and without Ray: the build's twin for tests and trials.

It makes the same files with the same bytes as `prepare` does for the same cleaned documents and tokenizer, in the
plainest way: all in memory, one sort, one stream. Tests compare the two.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep import keys, shards
from data_prep.files import sha256_file, write_atomic
from data_prep.manifest import (
    FORMAT_VERSION,
    HeldoutRecord,
    Manifest,
    ShardRecord,
    SourceRecord,
    sealed,
    sidecar_name,
    write_manifest,
)
from data_prep.pack import parts_in_span, shard_spans, shuffled, with_end_of_text
from data_prep.tokenizer import byte_alphabet

Documents = Sequence[tuple[str, str]]
"""(id, text) pairs."""


def byte_tokenizer(end_of_text: str = "<|endoftext|>") -> bytes:
    """A `tokenizer.json` whose tokens are the end of text (id 0) and the 256 bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = {end_of_text: 0} | {symbol: place for place, symbol in enumerate(sorted(byte_alphabet()), start=1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(end_of_text, special=True, normalized=False)])
    return str(tokenizer.to_str()).encode()


def write_small_corpus(
    folder: Path,
    sources: Mapping[str, Documents],
    *,
    sequence_length: int,
    sequences_per_shard: int = 8,
    heldout: Mapping[str, Documents] | None = None,
    seed: int = 0,
    name: str = "small",
    tokenizer_json: bytes | None = None,
    token_dtype: str = "uint16",  # noqa: S107
    end_of_text: str = "<|endoftext|>",
) -> Manifest:
    """Writes a complete corpus into `folder` and returns its manifest. Texts are taken as they are.

    Without a `tokenizer_json` a token is a byte (`byte_tokenizer`), so a document of n bytes has n + 1 tokens.
    """
    from tokenizers import Tokenizer

    tokenizer_json = tokenizer_json or byte_tokenizer(end_of_text)
    tokenizer = Tokenizer.from_str(tokenizer_json.decode())
    tokenizer.encode_special_tokens = True
    end_of_text_id = tokenizer.token_to_id(end_of_text)
    assert end_of_text_id is not None, f"the tokenizer has no {end_of_text}"
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    (folder / "heldout").mkdir(exist_ok=True)
    write_atomic(folder / "tokenizer.json", tokenizer_json)

    shard_records: list[ShardRecord] = []
    source_records: list[SourceRecord] = []
    heldout_records: list[HeldoutRecord] = []
    for source, documents in sources.items():
        order = _order(documents, source, seed)
        ids = [tokenizer.encode(documents[i][1], add_special_tokens=False).ids for i in order]
        lengths = np.array([len(one) for one in ids], dtype=np.int64)
        flat = np.array([token for one in ids for token in one], dtype=token_dtype)
        stream = with_end_of_text(flat, lengths, end_of_text_id)
        ends = np.cumsum(lengths + 1)
        spans = shard_spans(len(stream), sequence_length, sequences_per_shard)
        for span in spans:
            shard = folder / "shards" / shards.shard_name(source, span.number)
            buffer = io.BytesIO()
            writer = shards.ShardWriter(buffer, sequence_length, end_of_text_id)
            writer.write(stream[span.first_token : span.end_token])
            sha256 = writer.finish()
            write_atomic(shard, buffer.getvalue())
            parts = parts_in_span(ends - lengths - 1, ends, span, sequence_length)
            sidecar = shard.with_name(sidecar_name(shard.name))
            shards.write_sidecar(
                sidecar,
                pa.table(
                    {
                        "id": [documents[order[i]][0] for i in parts.index],
                        "source": [source] * len(parts.index),
                        "row": parts.row,
                        "first_token": parts.first_token,
                        "length": parts.length,
                    }
                ),
            )
            shard_records.append(
                ShardRecord(
                    name=shard.name,
                    source=source,
                    num_sequences=span.num_sequences,
                    num_documents=len(parts.index),
                    size_bytes=writer.size_bytes,
                    sha256=sha256,
                    docs_sha256=sha256_file(sidecar),
                )
            )
        held = sorted((heldout or {}).get(source, ()))
        if held:
            path = folder / "heldout" / f"{source}.parquet"
            shards.write_heldout(path, pa.table({"id": [i for i, _ in held], "text": [t for _, t in held]}))
            heldout_records.append(
                HeldoutRecord(
                    name=path.name,
                    source=source,
                    num_documents=len(held),
                    text_bytes=sum(len(text.encode()) for _, text in held),
                    sha256=sha256_file(path),
                )
            )
        num_sequences = sum(span.num_sequences for span in spans)
        source_records.append(
            SourceRecord(
                name=source,
                documents_read=len(documents) + len(held),
                dropped={},
                documents_heldout=len(held),
                documents_kept=len(documents),
                text_bytes=sum(len(text.encode()) for _, text in documents),
                num_tokens=len(stream),
                num_sequences=num_sequences,
                padding_tokens=num_sequences * sequence_length - len(stream),
            )
        )
    manifest = sealed(
        Manifest(
            format_version=FORMAT_VERSION,
            name=name,
            sequence_length=sequence_length,
            sequences_per_shard=sequences_per_shard,
            token_dtype=token_dtype,
            vocab_size=len(tokenizer.get_vocab()),
            end_of_text_id=end_of_text_id,
            tokenizer_sha256=sha256_file(folder / "tokenizer.json"),
            tokenizer_backend="tokenizers",
            config_digest="",
            sources=tuple(source_records),
            shards=tuple(shard_records),
            heldout=tuple(heldout_records),
            seed=seed,
        )
    )
    write_manifest(folder, manifest)
    return manifest


def _order(documents: Documents, source: str, seed: int) -> list[int]:
    content = [keys.content_halves(text.encode()) for _, text in documents]
    order = shuffled(
        np.array([keys.document_key(keys.SHUFFLE, seed, source, one) for one, _ in documents], dtype=np.uint64),
        np.array([high for high, _ in content], dtype=np.uint64),
        np.array([low for _, low in content], dtype=np.uint64),
    )
    return [int(i) for i in order]
