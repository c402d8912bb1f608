"""prepare() in this process (`workers=0`): what a corpus holds, what shapes it, and what ends in one clear line.

The same graph over real Ray workers is in `test_ray.py`.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem

from data_prep import build, crew, keys, pack, tokenizer
from data_prep.build import find_corpus, prepare
from data_prep.clean import clean
from data_prep.config import (
    CorpusConfig,
    DedupConfig,
    HeldoutConfig,
    SourceConfig,
    TokenizerConfig,
    TokenizerTrainConfig,
)
from data_prep.encoding import checked_halvings
from data_prep.errors import DataMistake
from data_prep.manifest import Manifest
from data_prep.shards import open_shard, read_heldout, read_sidecar
from data_prep.small import byte_tokenizer, write_small_corpus
from data_prep.stages import Progress
from data_prep.texts import Texts
from data_prep.tokenizer import Encoder
from data_prep.verify import verify
from tests.data_prep.corpora import config, files_of, texts, totals, write_inputs, write_lines


@pytest.fixture(scope="module", autouse=True)
def small_cells() -> Iterator[None]:
    """Some ten cells a source instead of one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "CELL_BYTES", 3_000)
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    return prepare(config(inputs), tmp_path_factory.mktemp("corpora"), "demo", workers=0)


def stored_ids(folder: Path, manifest: Manifest, source: str) -> list[str]:
    """Ids of the source's documents in the shards, in order, one entry a document."""
    ids: list[str] = []
    for shard in manifest.source_shards(source):
        for document_id in read_sidecar(folder, shard.name)["id"].to_pylist():
            if not ids or ids[-1] != document_id:
                ids.append(document_id)
    return ids


def test_every_document_is_accounted_for(corpus: tuple[Path, Manifest]) -> None:
    folder, manifest = corpus
    assert verify(folder) == ()
    prose, code = manifest.sources
    assert prose.dropped == {"empty": 1, "exact_duplicate": 20, "no_text": 1, "not_json": 1}
    assert code.dropped == {"exact_duplicate": 10}
    assert (prose.documents_read, code.documents_read) == (223, 110)
    for source in manifest.sources:
        dropped = sum(source.dropped.values())
        assert source.documents_read == dropped + source.documents_heldout + source.documents_kept
        assert len(stored_ids(folder, manifest, source.name)) == source.documents_kept
        shards = manifest.source_shards(source.name)
        assert source.num_sequences == sum(shard.num_sequences for shard in shards) > manifest.sequences_per_shard
        assert all(shard.num_sequences == manifest.sequences_per_shard for shard in shards[:-1])
        assert source.num_sequences * 64 == source.num_tokens + source.padding_tokens


def test_the_first_source_and_smallest_id_survive(corpus: tuple[Path, Manifest]) -> None:
    folder, manifest = corpus
    ids = {source.name: set(stored_ids(folder, manifest, source.name)) for source in manifest.sources}
    ids["prose"] |= {one for source, one, _ in read_heldout(folder, manifest) if source == "prose"}
    assert not ids["prose"] & {f"p{i}" for i in range(100, 120)}  # `a.jsonl#...` is smaller
    assert not ids["code"] & {f"c{i}" for i in range(10)}  # in the first source too


def test_held_out_documents_are_nowhere_in_the_shards(corpus: tuple[Path, Manifest]) -> None:
    folder, manifest = corpus
    held = list(read_heldout(folder, manifest))
    assert [record.num_documents for record in manifest.heldout] == [s.documents_heldout for s in manifest.sources]
    assert all(0 < source.documents_heldout < 40 for source in manifest.sources)
    assert held == sorted(held, key=lambda one: (one[0] == "code", one[1]))
    for source in manifest.sources:
        assert not {one for name, one, _ in held if name == source.name} & set(
            stored_ids(folder, manifest, source.name)
        )
    assert sum(len(text.encode()) for _, _, text in held) == sum(record.text_bytes for record in manifest.heldout)


def test_the_tokenizer_is_not_trained_on_held_out_documents(corpus: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = corpus
    held = {one for source, one, _ in read_heldout(folder, manifest) if source == "code"}
    write_inputs(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "code" / "c.jsonl").read_text().splitlines()]
    changed = [{**one, "text": one["text"] + " zyzzyva" * 500 * (one["id"] in held)} for one in records]
    assert changed != records
    write_lines(tmp_path / "code" / "c.jsonl", changed)
    other, _ = prepare(config(tmp_path), tmp_path / "out", "demo", workers=0)
    assert (other / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_the_tokens_are_the_documents(corpus: tuple[Path, Manifest], inputs: Path) -> None:
    """Decoding the shards gives back the cleaned texts, in the order that the sidecars say."""
    folder, manifest = corpus
    exact = Encoder((folder / "tokenizer.json").read_bytes(), "tokenizers").exact
    given = {
        record["id"]: record["text"]
        for record in map(json.loads, (inputs / "code" / "c.jsonl").read_text().splitlines())
    }
    stream = np.concatenate(
        [open_shard(folder / "shards" / s.name, manifest).ravel() for s in manifest.source_shards("code")]
    )
    ends = np.flatnonzero(stream == manifest.end_of_text_id)
    ids = stored_ids(folder, manifest, "code")
    found = [exact.decode(piece.tolist()) for piece in np.split(stream, ends + 1)[: len(ids)]]
    assert [text.removesuffix("<|endoftext|>") for text in found] == [clean(given[one]) for one in ids]


@pytest.mark.parametrize("packing", pack.PACKINGS)
def test_the_build_makes_the_bytes_of_its_plain_twin(
    tmp_path: Path, packing: Literal["concatenate", "best_fit"]
) -> None:
    """All of the graph against `write_small_corpus`: one process, one sort, one stream."""
    some = [f"{text} <|endoftext|>" for text in texts(200)]
    write_lines(tmp_path / "in" / "x.jsonl", [{"id": f"d{i % 150}", "text": text} for i, text in enumerate(some)])
    (tmp_path / "bytes.json").write_bytes(byte_tokenizer())
    built, manifest = prepare(
        CorpusConfig(
            sources=(SourceConfig(name="only", path=str(tmp_path / "in")),),
            tokenizer=TokenizerConfig(path=str(tmp_path / "bytes.json")),
            sequence_length=50,
            shard_bytes=30_000,
            unit_bytes=2_000,
            packing=packing,
            seed=5,
        ),
        tmp_path / "out",
        "twin",
        workers=0,
    )
    held = [(one, text) for _, one, text in read_heldout(built, manifest)]
    kept = [(f"d{i % 150}", text) for i, text in enumerate(some) if (f"d{i % 150}", text) not in held]
    write_small_corpus(
        tmp_path / "twin",
        {"only": kept},
        sequence_length=50,
        sequences_per_shard=manifest.sequences_per_shard,
        heldout={"only": held},
        seed=5,
        packing=packing,
    )
    mine, plain = files_of(built), files_of(tmp_path / "twin")
    del mine["report.html"], mine["statistics.json"]
    assert len(manifest.shards) > 10
    assert mine.keys() == plain.keys()
    assert [name for name in mine if mine[name] != plain[name]] == ["manifest.json"]
    assert manifest.tokenizer_backend == "gigatoken"


@pytest.mark.parametrize("unit_bytes", [300, 5_000])
def test_the_grain_of_the_work_shapes_nothing(
    corpus: tuple[Path, Manifest], inputs: Path, tmp_path: Path, unit_bytes: int
) -> None:
    folder, manifest = prepare(config(inputs, unit_bytes=unit_bytes), tmp_path, "demo", workers=0)
    assert manifest == corpus[1]
    assert files_of(folder) == files_of(corpus[0])


def test_the_place_of_the_inputs_and_their_listing_shape_nothing(
    corpus: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inputs(tmp_path / "elsewhere" / "deeper")
    for name in ("glob", "find"):
        listing = getattr(LocalFileSystem, name)

        def backwards(*arguments: Any, listing: Any = listing, **options: Any) -> dict[str, Any]:
            return dict(reversed(listing(*arguments, **options).items()))

        monkeypatch.setattr(LocalFileSystem, name, backwards)
    folder, manifest = prepare(config(tmp_path / "elsewhere" / "deeper"), tmp_path, "demo", workers=0)
    assert (folder.name, manifest) == (corpus[0].name, corpus[1])


def test_what_shapes_the_corpus_names_it(inputs: Path, corpus: tuple[Path, Manifest], tmp_path: Path) -> None:
    base = config(inputs)
    trained = replace(base.sources[0], weight=1.0)
    digests = {corpus[1].digest}
    for changed in (
        replace(base, seed=1),
        replace(base, sequence_length=32),
        replace(base, dedup=DedupConfig(exact=False)),
        replace(base, heldout=HeldoutConfig(fraction=0.0)),
        replace(base, sources=base.sources[::-1]),
        replace(base, sources=(trained, base.sources[1])),
    ):
        folder, manifest = prepare(changed, tmp_path, "demo", workers=0)
        assert folder.name not in {corpus[0].name}
        digests.add(manifest.digest)
    assert len(digests) == 7


def test_a_weight_shapes_nothing_if_the_tokenizer_is_given(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(byte_tokenizer())
    base = config(inputs, tokenizer=TokenizerConfig(path=str(tmp_path / "t.json")))
    folder, _ = prepare(base, tmp_path, "demo", workers=0)
    heavier = replace(base, sources=(replace(base.sources[0], weight=9.0), base.sources[1]))
    assert find_corpus(heavier, tmp_path, "demo") == folder


def test_a_second_prepare_does_nothing(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_corpus(config(inputs), tmp_path, "demo") is None
    folder, manifest = prepare(config(inputs), tmp_path, "demo", workers=0)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(build, "hired", None)
    assert find_corpus(config(inputs), tmp_path, "demo") == folder
    assert prepare(config(inputs), tmp_path, "demo") == (folder, manifest)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {folder.name, ".work-demo"}


def test_a_changed_input_makes_another_corpus(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    first, _ = prepare(config(tmp_path), tmp_path / "out", "demo", workers=0)
    with (tmp_path / "prose" / "b.jsonl").open("a") as file:
        file.write(json.dumps({"text": "one more document"}) + "\n")
    assert find_corpus(config(tmp_path), tmp_path / "out", "demo") is None
    second, manifest = prepare(config(tmp_path), tmp_path / "out", "demo", workers=0)
    assert first != second
    assert totals(manifest)["prose"][0] == 224


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("after", [0, 7, 25, 45])
def test_a_build_that_ended_anywhere_goes_on(
    corpus: tuple[Path, Manifest], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    done = 0

    def mortal(*arguments: object) -> object:
        nonlocal done
        if done == after:
            raise Killed
        done += 1
        return guarded(*arguments)  # type: ignore[arg-type]

    guarded = crew.guarded
    small = config(inputs, unit_bytes=5_000)
    with monkeypatch.context() as patched:
        patched.setattr(crew, "guarded", mortal)
        with pytest.raises(Killed):
            prepare(small, tmp_path, "demo", workers=0)
    assert find_corpus(small, tmp_path, "demo") is None
    work = tmp_path / ".work-demo"
    (work / "refine").mkdir(exist_ok=True)
    (work / "refine" / ".writing-left-behind").write_bytes(b"half")
    for folder in tmp_path.glob("demo-*/shards"):
        (folder / ".writing-left-behind").write_bytes(b"half")
    redone = 0

    def counted(*arguments: object) -> object:
        nonlocal redone
        redone += 1
        return guarded(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(crew, "guarded", counted)
    folder, manifest = prepare(small, tmp_path, "demo", workers=0)
    assert manifest == corpus[1]
    assert files_of(folder) == files_of(corpus[0])
    assert list(work.rglob(".writing-*")) == []
    redone_and_done = redone + done
    redone = 0
    prepare(small, tmp_path / "unbroken", "demo", workers=0)
    assert redone_and_done == redone


def test_shards_that_were_removed_behind_their_records_are_made_again(
    corpus: tuple[Path, Manifest], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(build, "write_manifest", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            prepare(config(inputs), tmp_path, "demo", workers=0)
    [half] = tmp_path.glob("demo-*")
    (half / "shards" / corpus[1].shards[0].name).unlink()
    (half / "heldout" / "code.parquet").unlink()
    (half / "tokenizer.json").unlink()
    folder, manifest = prepare(config(inputs), tmp_path, "demo", workers=0)
    assert manifest == corpus[1]
    assert verify(folder) == ()


def test_a_half_built_folder_is_never_trusted(corpus: tuple[Path, Manifest], inputs: Path, tmp_path: Path) -> None:
    half = tmp_path / corpus[0].name
    shutil.copytree(corpus[0], half)
    (half / "manifest.json").unlink()
    (half / "shards" / corpus[1].shards[0].name).write_bytes(b"half a shard")
    (half / "shards" / "prose-99999.tar").write_bytes(b"of another build")
    assert find_corpus(config(inputs), tmp_path, "demo") is None
    folder, manifest = prepare(config(inputs), tmp_path, "demo", workers=0)
    assert (folder, manifest) == (half, corpus[1])
    assert files_of(folder) == files_of(corpus[0])


@pytest.fixture
def wrong_word(monkeypatch: pytest.MonkeyPatch) -> str:
    """A word that gigatoken gives one wrong token for, from here on."""
    word, right = "zyzzyva", tokenizer._encode_fast

    def wrong(fast: Any, pieces: Texts) -> tuple[np.ndarray, np.ndarray]:
        tokens, lengths = right(fast, pieces)
        tokens = tokens.copy()
        for place, start in enumerate(np.cumsum(lengths) - lengths):  # a token is a byte
            if (found := pieces[place].find(word.encode())) >= 0:
                tokens[start + found + 3] += 1
        return tokens, lengths

    monkeypatch.setattr(tokenizer, "_encode_fast", wrong)
    return word


def build_of(folder: Path, documents: dict[str, str], unit_bytes: int = 10**6) -> tuple[Path, Manifest]:
    """One source, no document held out, a token is a byte."""
    write_lines(folder / "in" / "x.jsonl", [{"id": one, "text": text} for one, text in documents.items()])
    (folder / "bytes.json").write_bytes(byte_tokenizer())
    settings = CorpusConfig(
        sources=(SourceConfig(name="only", path=f"{folder}/in"),),
        tokenizer=TokenizerConfig(path=f"{folder}/bytes.json"),
        sequence_length=64,
        heldout=HeldoutConfig(fraction=0),
        unit_bytes=unit_bytes,
    )
    return prepare(settings, folder / "out", "demo", workers=0)


DOCUMENTS = {f"d{i}": text for i, text in enumerate(texts(2_000))}
SAMPLED = [
    one
    for one in DOCUMENTS
    if keys.document_key(keys.SAMPLE, 0, "only", one) < 2 ** (64 - checked_halvings(len(DOCUMENTS)))
]


def test_some_documents_of_every_source_are_checked() -> None:
    counts = (1, 15, 16, 2_000, 8_191, 8_192, 10**9)
    assert [checked_halvings(count) for count in counts] == [0, 0, 1, 7, 9, 10, 10]
    assert 8 <= len(SAMPLED) <= 32


@pytest.mark.parametrize("where", [SAMPLED[0], SAMPLED[-1]])
def test_one_wrong_token_makes_the_whole_build_exact(tmp_path: Path, wrong_word: str, where: str) -> None:
    """In a document of the sample: one word of 2,000 documents."""
    folder, manifest = build_of(tmp_path, DOCUMENTS | {where: f"{DOCUMENTS[where]}{wrong_word}"})
    assert manifest.tokenizer_backend == "tokenizers"
    assert verify(folder) == ()
    stream = np.concatenate([open_shard(folder / "shards" / s.name, manifest).ravel() for s in manifest.shards])
    exact = Encoder(byte_tokenizer(), "tokenizers").exact
    assert exact.decode(stream.tolist(), skip_special_tokens=True).count(wrong_word) == 1


def test_outside_the_sample_nothing_is_compared(tmp_path: Path, wrong_word: str) -> None:
    """What the sample costs is what it can miss: this is why the tests above can fail."""
    where = next(one for one in DOCUMENTS if one not in SAMPLED)
    _, manifest = build_of(tmp_path, DOCUMENTS | {where: f"{DOCUMENTS[where]}{wrong_word}"})
    assert manifest.tokenizer_backend == "gigatoken"


def test_every_piece_of_a_long_document_is_compared(
    tmp_path: Path, wrong_word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "LONG_BYTES", 1_000)
    _, manifest = build_of(tmp_path, DOCUMENTS | {SAMPLED[0]: f"{'long ' * 1_000}{wrong_word}{' long' * 1_000}"})
    assert manifest.tokenizer_backend == "tokenizers"


def test_a_fall_back_does_not_depend_on_how_the_work_was_cut(tmp_path: Path, wrong_word: str) -> None:
    documents = DOCUMENTS | {SAMPLED[0]: wrong_word}
    manifests = [build_of(tmp_path / str(size), documents, unit_bytes=size)[1] for size in (100_000, 10**7)]
    assert manifests[0] == manifests[1]
    assert manifests[0].tokenizer_backend == "tokenizers"


def test_progress_counts_up(inputs: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    _, manifest = prepare(config(inputs, unit_bytes=5_000), tmp_path, "demo", workers=0, progress=seen.append)
    assert list(dict.fromkeys(one.stage for one in seen)) == [
        "read", "dedup", "settle", "sample", "tokenizer", "encode", "pack", "shards", "heldout", "fates",
    ]  # fmt: skip
    for before, after in pairwise(seen):
        assert after.stage != before.stage or (after.done == before.done + 1 and after.total == before.total)
        assert (after.documents, after.tokens) >= (before.documents, before.tokens)
    assert seen[-1].documents == sum(source.documents_read for source in manifest.sources)
    assert seen[-1].tokens == sum(source.num_tokens for source in manifest.sources)


def test_a_document_of_many_shards(tmp_path: Path) -> None:
    long = " ".join(texts(400))
    write_lines(tmp_path / "in.jsonl", [{"id": "long", "text": long}, {"id": "short", "text": "a"}])
    only = SourceConfig(name="only", path=str(tmp_path / "in.jsonl"))
    settings = config(tmp_path, sources=(only,), heldout=HeldoutConfig(fraction=0), unit_bytes=1_000)
    folder, manifest = prepare(settings, tmp_path, "demo", workers=0)
    assert len(manifest.shards) > 3
    assert [ids for s in manifest.shards if len(ids := read_sidecar(folder, s.name)) != 1] != []
    assert (
        sum(entry["length"] for s in manifest.shards for entry in read_sidecar(folder, s.name).to_pylist())
        == manifest.sources[0].num_tokens
    )


# What a user can do wrong: one line each, and nothing complete is damaged.


def mistake(settings: CorpusConfig, root: Path, name: str = "demo") -> str:
    with pytest.raises(DataMistake) as caught:
        prepare(settings, root, name, workers=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["", "../up", "a/b", "Big", "a_b", "-a", "a" * 65])
def test_no_name_leads_out_of_the_folder(inputs: Path, tmp_path: Path, name: str) -> None:
    assert "lower-case letters, digits and hyphens" in mistake(config(inputs), tmp_path, name)
    source = replace(config(inputs).sources[0], name=name)
    assert "sources.0.name" in mistake(config(inputs, sources=(source,)), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, "sources: there are none"),
        ({"tokenizer": TokenizerConfig()}, "exactly one of"),
        ({"tokenizer": TokenizerConfig(path="x", train=TokenizerTrainConfig(vocab_size=300))}, "exactly one of"),
        ({"tokenizer": TokenizerConfig(path="missing.json")}, "missing.json cannot be read"),
        ({"tokenizer": TokenizerConfig(train=TokenizerTrainConfig(vocab_size=100))}, "vocab_size: 100 cannot hold"),
        ({"tokenizer": TokenizerConfig(train=TokenizerTrainConfig(vocab_size=90_000))}, "yields only"),
        ({"heldout": HeldoutConfig(fraction=1.0)}, "heldout.fraction"),
        ({"sequence_length": 1}, "sequence_length: 1 is too small"),
    ],
)
def test_settings_that_cannot_be(inputs: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    assert message in mistake(config(inputs, **changes), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules": "poetry"}, "choose one of none, prose, code"),
        ({"weight": 0.0}, "sources.0.weight"),
        ({"text_field": "body"}, "sources.prose: none of its 223 documents is left (no_text 222, not_json 1)"),
        ({"path": "/nowhere/at/all"}, "does not exist"),
        ({"name": "code"}, "sources.1.name: 'code' is there twice"),
    ],
)
def test_sources_that_cannot_be(inputs: Path, tmp_path: Path, changes: dict[str, str], message: str) -> None:
    first, second = config(inputs).sources
    assert message in mistake(config(inputs, sources=(replace(first, **changes), second)), tmp_path)


def test_a_cut_input_commits_nothing_and_is_mended_by_a_whole_one(tmp_path: Path) -> None:
    import gzip

    write_inputs(tmp_path)
    whole = gzip.compress((tmp_path / "prose" / "b.jsonl").read_bytes())
    (tmp_path / "prose" / "b.jsonl").unlink()
    (tmp_path / "prose" / "b.jsonl.gz").write_bytes(whole[:-10])
    settings = config(tmp_path)
    settings = replace(settings, sources=(replace(settings.sources[0], path=f"{tmp_path}/prose"), settings.sources[1]))
    assert "b.jsonl.gz is cut off or damaged" in mistake(settings, tmp_path / "out")
    assert find_corpus(settings, tmp_path / "out", "demo") is None
    (tmp_path / "prose" / "b.jsonl.gz").write_bytes(whole)
    _, manifest = prepare(settings, tmp_path / "out", "demo", workers=0)
    assert totals(manifest)["prose"][0] == 223


def test_a_full_disk_is_one_line_and_harms_nothing(
    corpus: tuple[Path, Manifest], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, _ = prepare(config(inputs, seed=3), tmp_path, "demo", workers=0)
    synced, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert "no space is left" in mistake(config(inputs), tmp_path)
    assert list(tmp_path.rglob(".writing-*")) == [], "half a file still takes up space"
    assert verify(other) == ()
    folder, manifest = prepare(config(inputs), tmp_path, "demo", workers=0)
    assert manifest == corpus[1]
    assert verify(folder) == ()


def test_a_folder_that_cannot_be_written_is_one_line(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    message = mistake(config(inputs), tmp_path / "file" / "corpora")
    assert message.startswith("cannot write")
    assert "make it writable" in message
