"""`prep --dry-run`: a few units are done for real, in a folder that goes away, and the rest is scaled from them.

Units are chosen by hash, some of each kind of input, so that neither the first nor the largest file decides. Nothing is
hashed but what they read, so this takes seconds whatever the size of the inputs.
"""

import io
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson

from data_prep.choosing import select
from data_prep.config import CorpusConfig, check_config, check_name
from data_prep.encoding import tokenizer_of
from data_prep.errors import DataMistake
from data_prep.files import digest
from data_prep.forecast import SHARDS, Forecast, InputGroup, SampledUnit, forecast
from data_prep.inputs import Slice, Unit, cut_units, files_at, list_inputs
from data_prep.parts import Part
from data_prep.reading import index_tasks, refine_unit
from data_prep.shards import ShardWriter
from data_prep.texts import take
from data_prep.tokenizer import Encoder
from data_prep.work import Work

SAMPLES_PER_KIND = 2
BYTES_PER_TOKEN = 4
"""Assumed if too little text was sampled to train a tokenizer on."""
START_S = 1.5
"""Imports, kernels and tokenizers loaded."""
DRIVER_BYTES = 300_000_000
WARM_TEXT = (
    "Größe: someone at the mill, mail@mill-river.net or +1 650-253-0000, says that the water is \u201cslow\u201d.\n" * 9
)
"""Whatever looks at text finds something here."""


def dry_run(config: CorpusConfig, name: str, workers: int) -> Forecast:
    """What `prepare` would come to. Raises DataMistake as that does, as far as it reads. Foresees no duplicates."""
    check_name(name)
    check_config(config)
    units = [
        unit
        for place, source in enumerate(config.sources)
        for unit in cut_units(place, list_inputs(source), config.unit_bytes)
    ]
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder), Path(folder) / "corpus", config)
        index_tasks(work)
        _warm_up(work)
        read = [(unit, *_read(work, unit)) for unit in chosen_units(units)]
        encoder, token_dtype = _tokenizer(work, [part for _, parts, _, _ in read for part in parts])
        samples = [_sampled(work, *one, encoder=encoder, token_dtype=token_dtype) for one in read]
    return forecast(
        _groups(config, units),
        samples,
        workers=workers,
        sequence_length=config.sequence_length,
        token_dtype=token_dtype,
        shard_bytes=config.shard_bytes,
        fixed_s=START_S,
        fixed_bytes=DRIVER_BYTES,
    )


def kind_of(unit: Unit) -> tuple[int, str, str]:
    file = unit.slices[0].file
    return unit.source, file.kind, file.compression


def chosen_units(units: list[Unit]) -> list[Unit]:
    """Some units of each kind, by the hash of where they begin."""
    by_hash = sorted(units, key=lambda one: digest([one.slices[0].file.relative, one.slices[0].start]))
    kinds: dict[tuple[int, str, str], list[Unit]] = {}
    for unit in by_hash:
        kinds.setdefault(kind_of(unit), []).append(unit)
    return [unit for some in kinds.values() for unit in some[:SAMPLES_PER_KIND]]


def _warm_up(work: Work) -> None:
    """Reads a line for each source: what a process loads once is no part of what a unit takes."""
    for place, source in enumerate(work.config.sources):
        path = work.root / f"warm-{place}.jsonl"
        path.write_bytes(orjson.dumps({source.text_field: WARM_TEXT}) + b"\n")
        [unit] = cut_units(place, files_at(str(path), source.name), work.config.unit_bytes)
        _read(work, unit)


def _read(work: Work, unit: Unit) -> tuple[list[Part], int, float]:
    """(chosen parts, documents read, seconds)"""
    began, name = time.perf_counter(), _name_of(unit)
    record = refine_unit(work, name, unit)
    selected = select(work, name.replace("refine", "read"), record, unit.source)
    return list(selected.parts), selected.documents_read, time.perf_counter() - began


def _name_of(unit: Unit) -> str:
    return f"refine/{digest([unit.source, unit.slices[0].file.url, unit.slices[0].start])}"


def _tokenizer(work: Work, parts: list[Part]) -> tuple[Encoder | None, str]:
    """None if what was sampled is too little to train one."""
    settings = work.config.tokenizer
    try:
        made, facts = tokenizer_of(settings, (text.decode() for part in parts for text in _texts(work, part)))
    except DataMistake:
        if settings.train is None:
            raise
        return None, "uint16" if settings.train.vocab_size <= 2**16 else "uint32"
    return Encoder(made, facts.backend), facts.token_dtype


def _texts(work: Work, part: Part) -> list[bytes]:
    chosen = take(work.load_texts(part.docs), work.load_array(part.keys, "keys.npy")["row"].astype(np.int64))
    return [chosen[place] for place in range(len(chosen))]


def _sampled(
    work: Work,
    unit: Unit,
    parts: list[Part],
    documents_read: int,
    read_s: float,
    *,
    encoder: Encoder | None,
    token_dtype: str,
) -> SampledUnit:
    texts = [text for part in parts for text in _texts(work, part)]
    text_bytes = sum(map(len, texts))
    tokens = np.zeros(text_bytes // BYTES_PER_TOKEN, dtype=np.uint32)
    if encoder is not None:
        encoder.encode([WARM_TEXT.encode()])
    began = time.perf_counter()
    if encoder is not None:
        tokens, _ = encoder.encode(texts)
    encoded = time.perf_counter()
    if len(tokens):
        writer = ShardWriter(io.BytesIO(), work.config.sequence_length, 0, "uint16")
        writer.write(tokens.astype(np.uint16))
        writer.finish()
    written = time.perf_counter()
    source, kind, compression = kind_of(unit)
    return SampledUnit(
        source=work.config.sources[source].name,
        kind=kind,
        compression=compression,
        input_bytes=input_bytes(unit),
        documents_read=documents_read,
        documents_kept=len(texts),
        text_bytes=text_bytes,
        num_tokens=len(tokens) + len(texts),
        work_bytes=_bytes_of(work, unit) + np.dtype(token_dtype).itemsize * len(tokens),
        stage_s={"read": read_s, "encode": encoded - began, SHARDS: written - encoded},
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _bytes_of(work: Work, unit: Unit) -> int:
    """What reading the unit has written."""
    key = _name_of(unit).partition("/")[2]
    return sum(path.stat().st_size for path in work.root.glob(f"*/{key}*"))


def input_bytes(unit: Unit) -> int:
    """Bytes of the unit's slices; of a parquet file's row groups about so many."""

    def size(piece: Slice) -> int:
        if piece.end < 0:
            return piece.file.size_bytes
        return piece.end - piece.start if piece.file.kind == "jsonl" else piece.file.size_bytes // 2

    return sum(map(size, unit.slices))


def _groups(config: CorpusConfig, units: list[Unit]) -> list[InputGroup]:
    groups: dict[tuple[int, str, str], list[int]] = {}
    for unit in units:
        groups.setdefault(kind_of(unit), []).append(input_bytes(unit))
    return [
        InputGroup(
            source=config.sources[source].name,
            kind=kind,
            compression=compression,
            size_bytes=sum(sizes),
            num_units=len(sizes),
            largest_unit_bytes=max(sizes),
        )
        for (source, kind, compression), sizes in groups.items()
    ]
