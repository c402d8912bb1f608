"""A corpus from documents in memory, in one process and without Ray: the build's twin for tests and trials.

It makes the same files with the same bytes as `prepare` does for the same cleaned documents and tokenizer, in the
plainest way: all in memory, one sort, one stream. Tests compare the two; they share the packing of a cell (pack.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep import keys, pack, shards
from data_prep.files import sha256_file, write_atomic
from data_prep.manifest import (
    FORMAT_VERSION,
    HeldoutRecord,
    Manifest,
    ShardRecord,
    SourceRecord,
    cells_name,
    sealed,
    shard_name,
    sidecar_name,
    write_manifest,
)
from data_prep.shard_table import shards_of
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
    packing: str = pack.CONCATENATE,
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
        held = sorted((heldout or {}).get(source, ()))
        keys_of, order = _order(documents, source, seed)
        tokens = [tokenizer.encode(documents[i][1], add_special_tokens=False).ids for i in order]
        lengths = np.array([len(one) + 1 for one in tokens], dtype=np.int64)
        num_cells = pack.num_cells(sum(len(text.encode()) for _, text in [*documents, *held]))
        pieces, starts = _stream(lengths, pack.cell_of(keys_of, num_cells), num_cells, sequence_length, packing)
        cells = folder / "shards" / cells_name(source)
        np.save(cells, starts, allow_pickle=False)
        stream = np.full(int(starts[-1]), end_of_text_id, dtype=token_dtype)
        for document, offset, start, length in zip(*vars(pieces).values(), strict=True):
            part = tokens[document][offset : offset + length]  # the end of text is there already
            stream[start : start + len(part)] = part
        made = []
        for span in pack.shard_spans(len(stream), sequence_length, sequences_per_shard):
            shard = folder / "shards" / shard_name(source, span.number)
            with shard.open("wb") as file:
                writer = shards.ShardWriter(file, sequence_length, end_of_text_id, token_dtype)
                writer.write(stream[span.first_token : span.end_token])
                sha256 = writer.finish()
            here = pack.clipped(pieces, span.first_token, span.end_token)
            sidecar = shard.with_name(sidecar_name(shard.name))
            with shards.SidecarWriter(sidecar) as table:
                ids = pa.array([documents[i][0] for i in order], type=pa.string())
                table.write(shards.sidecar_table(ids, source, here, sequence_length))
            made.append(
                ShardRecord(
                    name=shard.name,
                    source=source,
                    number=span.number,
                    num_sequences=span.num_sequences,
                    num_documents=len(set(here.document.tolist())),
                    cut_documents=pack.cut_documents(here, lengths, sequence_length),
                    size_bytes=writer.size_bytes,
                    sha256=sha256,
                    docs_sha256=sha256_file(sidecar),
                )
            )
        shard_records += made
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
        num_sequences, num_tokens = sum(shard.num_sequences for shard in made), int(lengths.sum())
        source_records.append(
            SourceRecord(
                name=source,
                documents_read=len(documents) + len(held),
                dropped={},
                documents_heldout=len(held),
                documents_kept=len(documents),
                text_bytes=sum(len(text.encode()) for _, text in documents),
                num_tokens=num_tokens,
                num_sequences=num_sequences,
                num_shards=len(made),
                packing=packing,
                padding_tokens=num_sequences * sequence_length - num_tokens,
                cut_documents=sum(shard.cut_documents for shard in made),
                cells_sha256=sha256_file(cells),
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
            shards=shards_of(shard_records, tuple(sources)),
            heldout=tuple(heldout_records),
            seed=seed,
        )
    )
    write_manifest(folder, manifest)
    return manifest


def _order(documents: Documents, source: str, seed: int) -> tuple[pack.UInt64s, list[int]]:
    """The documents' shuffle keys in shuffled order, and that order."""
    content = [keys.content_halves(text.encode()) for _, text in documents]
    found = np.array([keys.document_key(keys.SHUFFLE, seed, source, one) for one, _ in documents], dtype=np.uint64)
    order = pack.shuffled(
        found,
        np.array([high for high, _ in content], dtype=np.uint64),
        np.array([low for _, low in content], dtype=np.uint64),
    )
    return found[order], order.tolist()


def _stream(
    lengths: pack.Int64s, cell_of: pack.Int64s, num_cells: int, sequence_length: int, packing: str
) -> tuple[pack.Pieces, pack.Int64s]:
    """Where the documents of all cells lie in the source's stream, and where each cell begins."""
    found = []
    counts: list[int] = []
    for cell in range(num_cells):
        mine = np.flatnonzero(cell_of == cell)
        pieces, count = pack.lay_out(lengths[mine], sequence_length, packing)
        found.append((mine[pieces.document], pieces.offset, pieces.start + sum(counts), pieces.length))
        counts.append(count)
    document, offset, start, length = (np.concatenate(column) for column in zip(*found, strict=True))
    return pack.Pieces(document=document, offset=offset, start=start, length=length), pack.starts_of(counts)
