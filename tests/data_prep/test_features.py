"""What the config can ask of a build beyond the plain one, through `prepare`: each against a plain expectation."""

import base64
import json
import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_prep.build import prepare
from data_prep.config import (
    CorpusConfig,
    DecontaminateConfig,
    DedupConfig,
    HeldoutConfig,
    LineDedupConfig,
    MinHashConfig,
    PiiConfig,
    SourceConfig,
    TokenizerConfig,
)
from data_prep.errors import DataMistake
from data_prep.forecast import forecast_text
from data_prep.inputs import cut_units, list_inputs
from data_prep.manifest import Manifest
from data_prep.shards import open_shard, read_sidecar
from data_prep.small import byte_tokenizer
from data_prep.statistics import HELDOUT, KEPT, read_statistics
from data_prep.tokenizer import Encoder
from data_prep.verify import verify
from data_prep.work import BOOT_NAME
from tests.data_prep.corpora import config, files_of, texts, write_inputs, write_lines

VOCABULARY = [f"w{i:03d}" for i in range(800)]


def settings(folder: Path, sources: tuple[SourceConfig, ...], **changes: Any) -> CorpusConfig:
    (folder / "t.json").write_bytes(byte_tokenizer())
    made = CorpusConfig(
        sources=sources,
        tokenizer=TokenizerConfig(path=str(folder / "t.json")),
        sequence_length=64,
        heldout=HeldoutConfig(fraction=0),
        unit_bytes=20_000,
    )
    return replace(made, **changes)


def texts_of_corpus(folder: Path, manifest: Manifest) -> dict[str, str]:
    """id -> text of all documents in the shards."""
    tokenizer = Encoder((folder / "tokenizer.json").read_bytes(), "tokenizers").exact
    found: dict[str, str] = {}
    for source in manifest.sources:
        stream = [
            token
            for shard in manifest.source_shards(source.name)
            for token in open_shard(folder / "shards" / shard.name, manifest).ravel().tolist()
        ]
        ids: list[str] = []
        for shard in manifest.source_shards(source.name):
            for one in read_sidecar(folder, shard.name)["id"].to_pylist():
                if not ids or ids[-1] != one:
                    ids.append(one)
        for one in ids:
            end = stream.index(manifest.end_of_text_id)
            found[one], stream = tokenizer.decode(stream[:end]), stream[end + 1 :]
    return found


def near_copies(count: int) -> list[tuple[str, str]]:
    """Documents of random words; each has a copy with one word in 80 changed, and one with every second changed."""
    draw = random.Random(3)
    made = []
    for number in range(count):
        words = draw.choices(VOCABULARY, k=160)
        near = [draw.choice(VOCABULARY) if at % 80 == 40 else word for at, word in enumerate(words)]
        far = [draw.choice(VOCABULARY) if at % 2 else word for at, word in enumerate(words)]
        made += [(f"{number}-a", " ".join(words)), (f"{number}-near", " ".join(near)), (f"{number}-far", " ".join(far))]
    return made


@pytest.mark.parametrize("unit_bytes", [6_000, 10**6])
def test_near_duplicates_over_sources_and_units(tmp_path: Path, unit_bytes: int) -> None:
    documents = near_copies(40)
    random.Random(0).shuffle(documents)
    write_lines(tmp_path / "one" / "x.jsonl", [{"id": one, "text": text} for one, text in documents[:60]])
    write_lines(tmp_path / "two" / "x.jsonl", [{"id": one, "text": text} for one, text in documents[60:]])
    sources = (SourceConfig(name="one", path=f"{tmp_path}/one"), SourceConfig(name="two", path=f"{tmp_path}/two"))
    chosen = settings(tmp_path, sources, dedup=DedupConfig(minhash=MinHashConfig()), unit_bytes=unit_bytes)
    folder, manifest = prepare(chosen, tmp_path / "out", "demo", workers=0)
    kept = texts_of_corpus(folder, manifest)
    first = {}
    for one, _ in documents:  # in the order of the corpus
        first.setdefault(one.split("-")[0] + ("-far" if one.endswith("far") else ""), one)
    assert set(kept) == set(first.values()), "the first of each pair of near copies stays, and all that is far"
    assert sum(source.dropped["near_duplicate"] for source in manifest.sources) == 40
    assert read_statistics(folder).near.sizes == {2: 40}
    assert verify(folder) == ()


def test_lines_that_a_source_repeats_are_kept_once(tmp_path: Path) -> None:
    banner = "This banner stands on every page of the site, and on all of them."
    lines = [{"id": f"d{i}", "text": f"page {i} says\n{banner}\nsomething of its own {i}"} for i in range(60)]
    lines.append({"id": "only", "text": banner})
    write_lines(tmp_path / "web" / "x.jsonl", lines)
    write_lines(tmp_path / "other" / "x.jsonl", [{"id": "o", "text": f"first\n{banner}"}])
    sources = (
        SourceConfig(name="web", path=f"{tmp_path}/web", line_dedup=LineDedupConfig(min_characters=30)),
        SourceConfig(name="other", path=f"{tmp_path}/other", line_dedup=LineDedupConfig(min_characters=30)),
    )
    results = []
    for unit_bytes in (1_500, 10**6):
        chosen = settings(tmp_path, sources, unit_bytes=unit_bytes)
        folder, manifest = prepare(chosen, tmp_path / str(unit_bytes), "demo", workers=0)
        kept = texts_of_corpus(folder, manifest)
        assert [one for one, text in kept.items() if banner in text] == ["d0", "o"], "once in each source"
        assert kept["d7"] == "page 7 says\nsomething of its own 7"
        assert manifest.sources[0].dropped == {"repeated_lines": 1}
        statistics = read_statistics(folder).sources["web"]
        assert statistics.outcomes[KEPT].text_bytes == manifest.sources[0].text_bytes
        assert statistics.trimmed_bytes["repeated_lines"] == 59 * (len(banner) + 1)
        results.append((manifest, files_of(folder)))
    assert results[0] == results[1]


QUESTION = "Which of the seven rivers that cross the northern plain freezes first when winter comes early to the hills?"


@pytest.mark.parametrize("action", ["drop", "mark"])
def test_documents_that_hold_evaluation_data(tmp_path: Path, action: Any) -> None:
    some = [{"id": f"d{i}", "text": text} for i, text in enumerate(texts(50))]
    some[7]["text"] += QUESTION.upper().replace(" ", "  ")
    some[31]["text"] = f"{QUESTION[:60]} and then something else"
    write_lines(tmp_path / "in" / "x.jsonl", some)
    write_lines(tmp_path / "quiz.jsonl", [{"question": QUESTION, "choices": ["the Mill", "the Race"]}])
    tasks = DecontaminateConfig(tasks={"quiz": f"{tmp_path}/quiz.jsonl"}, action=action)
    source = SourceConfig(name="web", path=f"{tmp_path}/in")
    chosen = settings(tmp_path, (source,), decontaminate=tasks)
    folder, manifest = prepare(chosen, tmp_path / "out", "demo", workers=0)
    [record] = manifest.sources
    assert record.contaminated == {"quiz": 1}
    assert record.dropped == ({"contaminated": 1} if action == "drop" else {})
    assert ("d7" in texts_of_corpus(folder, manifest)) == (action == "mark")
    if action == "mark":
        found = pq.read_table(folder / "contaminated.parquet").to_pylist()
        assert [(one["source"], one["id"], one["task"]) for one in found] == [("web", "d7", "quiz")]
        assert found[0]["ngrams"] >= 1
    write_lines(
        tmp_path / "quiz.jsonl", [{"question": "something else altogether that nobody has ever asked before now"}]
    )
    other, changed = prepare(chosen, tmp_path / "out", "demo", workers=0)
    assert other != folder
    assert changed.sources[0].contaminated == {}


def test_every_document_has_one_fate(tmp_path: Path) -> None:
    """The statistics, what was dropped and the manifest tell the same."""
    write_inputs(tmp_path)
    base = config(tmp_path, unit_bytes=9_000)
    rules = ({"rule": "gopher_quality", "min_words": 30, "min_stop_words": 0}, "gopher_repeated_lines")
    chosen = replace(base, sources=(replace(base.sources[0], rules=rules), base.sources[1]))
    folder, manifest = prepare(chosen, tmp_path / "out", "demo", workers=0, keep_dropped=True)
    statistics = read_statistics(folder)
    dropped: Counter[str] = Counter()
    for source in manifest.sources:
        outcomes = statistics.sources[source.name].outcomes
        counts = {name: sum(outcome.lengths.values()) for name, outcome in outcomes.items()}
        readable = {name: n for name, n in source.dropped.items() if name not in ("not_json", "no_text", "not_utf8")}
        assert counts == {KEPT: source.documents_kept, HELDOUT: source.documents_heldout} | readable
        assert outcomes[KEPT].text_bytes == source.text_bytes
        dropped.update(readable)
    written = [row for path in (folder / "dropped").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert (
        Counter(row["reason"] for row in written)
        == dropped
        == Counter(json.loads((folder / "dropped/dropped.json").read_text()))
    )
    records = map(json.loads, (tmp_path / "prose/b.jsonl").read_text().splitlines())
    given = {record["id"]: record["text"] for record in records}
    assert {row["id"] for row in written} & given.keys()
    assert all(row["text"] == given[row["id"]] for row in written if row["id"] in given)
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert verify(folder) == ()


def test_what_was_dropped_can_be_asked_for_afterwards(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    folder, manifest = prepare(config(tmp_path), tmp_path / "out", "demo", workers=0)
    assert not (folder / "dropped").exists()
    again = prepare(config(tmp_path), tmp_path / "out", "demo", workers=0, keep_dropped=True)
    assert again == (folder, manifest)
    at_once, _ = prepare(config(tmp_path), tmp_path / "other", "demo", workers=0, keep_dropped=True)
    assert files_of(folder) == files_of(at_once)


def test_personal_data_never_leaves_the_reader(tmp_path: Path) -> None:
    secret = "jane.doe@example.com"
    write_lines(tmp_path / "in" / "x.jsonl", [{"id": "d", "text": f"Write to {secret} about the mill."}, {"text": "a"}])
    source = SourceConfig(name="web", path=f"{tmp_path}/in", pii=PiiConfig(action="replace"))
    folder, manifest = prepare(settings(tmp_path, (source,)), tmp_path / "out", "demo", workers=0, keep_dropped=True)
    assert manifest.sources[0].pii == {"email": 1}
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    assert texts_of_corpus(folder, manifest)["d"] == "Write to <EMAIL> about the mill."


def test_documents_that_differ_in_personal_data_alone_are_duplicates_when_it_is_replaced(tmp_path: Path) -> None:
    """What is compared is what would be trained on."""
    letters = [{"id": name, "text": f"Write to {name}@example.com about the mill."} for name in ("jane", "joe")]
    write_lines(tmp_path / "in" / "x.jsonl", [*letters, {"id": "other", "text": "Nobody writes."}])
    for action, kept in (("replace", {"jane", "other"}), ("off", {"jane", "joe", "other"})):
        source = SourceConfig(name="web", path=f"{tmp_path}/in", pii=PiiConfig(action=action))
        folder, manifest = prepare(settings(tmp_path, (source,)), tmp_path / action, "demo", workers=0)
        assert texts_of_corpus(folder, manifest).keys() == kept


def test_after_the_machine_was_started_anew_only_whole_work_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may leave a record whose file was never written to disk."""
    write_inputs(tmp_path)
    chosen = config(tmp_path, unit_bytes=9_000)
    expected = prepare(chosen, tmp_path / "expected", "demo", workers=0)
    folder, _ = prepare(chosen, tmp_path / "out", "demo", workers=0)
    (folder / "manifest.json").unlink()
    torn = sorted((tmp_path / "out" / ".work-demo").glob("refine/*.docs.arrow"))[0]
    torn.write_bytes(bytes(torn.stat().st_size))
    (tmp_path / "out" / ".work-demo" / BOOT_NAME).write_text("another start of the machine")
    again = prepare(chosen, tmp_path / "out", "demo", workers=0)
    assert again[1] == expected[1]
    assert files_of(again[0]) == files_of(expected[0])


def test_many_parts_are_merged_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_prep import graph, pack

    monkeypatch.setattr(pack, "CELL_BYTES", 3_000)
    write_inputs(tmp_path)
    chosen = config(tmp_path, unit_bytes=2_000)
    plain = prepare(chosen, tmp_path / "plain", "demo", workers=0)
    seen: list[str] = []
    monkeypatch.setattr(graph, "MERGED_AT_ONCE", 4)
    monkeypatch.setattr(graph, "RUN_TOKENS", 2_000)
    merged = prepare(
        chosen, tmp_path / "merged", "demo", workers=0, progress=lambda now: seen.append(f"{now.stage} {now.total}")
    )
    assert max(int(one.split()[1]) for one in seen if one.startswith("merge ")) > 10
    assert merged[1] == plain[1]
    assert files_of(merged[0]) == files_of(plain[0])


def test_a_dry_run_foresees_the_build(tmp_path: Path) -> None:
    from data_prep.dry_run import dry_run

    write_inputs(tmp_path)
    chosen = config(tmp_path, unit_bytes=4_000, dedup=DedupConfig(exact=False), heldout=HeldoutConfig(fraction=0))
    before = set(tmp_path.rglob("*"))
    found = dry_run(chosen, "demo", workers=2)
    assert set(tmp_path.rglob("*")) == before, "a dry run leaves nothing behind"
    _, manifest = prepare(chosen, tmp_path / "out", "demo", workers=0)
    kept = sum(source.documents_kept for source in manifest.sources)
    tokens = sum(source.num_tokens for source in manifest.sources)
    assert kept / 1.6 < found.documents_kept.value < kept * 1.6
    assert tokens / 1.6 < found.num_tokens.value < tokens * 1.6
    units = [one for place, source in enumerate(chosen.sources) for one in cut_units(place, list_inputs(source), 4_000)]
    assert found.units == len(units) > found.sampled_units > 0
    shard_bytes = sum(shard.size_bytes for shard in manifest.shards)
    assert shard_bytes / 1.6 < found.output_bytes.value < shard_bytes * 1.6
    stages = [tmp_path / "out/.work-demo" / stage for stage in ("refine", "read", "encode")]
    work_bytes = sum(path.stat().st_size for stage in stages for path in stage.iterdir())
    assert work_bytes / 1.6 < found.work_bytes.value < work_bytes * 1.6
    assert "tokens" in forecast_text(found)


def test_what_is_loaded_once_is_no_part_of_a_units_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_prep import dry_run

    write_inputs(tmp_path)
    now, loaded = 0.0, set[str]()

    def refine(work: Any, name: str, unit: Any) -> Any:
        nonlocal now
        source = work.config.sources[unit.source].name
        now += 1.0 if source in loaded else 100.0
        loaded.add(source)
        return refine_unit(work, name, unit)

    refine_unit = dry_run.refine_unit
    monkeypatch.setattr(dry_run, "refine_unit", refine)
    monkeypatch.setattr(dry_run, "time", SimpleNamespace(perf_counter=lambda: now))
    found = dry_run.dry_run(config(tmp_path, unit_bytes=4_000), "demo", workers=1)
    assert found.stage_s["read"] == pytest.approx(found.units, rel=0.3)


def test_a_dry_run_knows_every_tokenizer_and_looks_for_evaluation_data(tmp_path: Path) -> None:
    from data_prep.dry_run import dry_run

    write_inputs(tmp_path)
    ranks = b"".join(base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256))
    (tmp_path / "bytes.tiktoken").write_bytes(ranks)
    write_lines(tmp_path / "quiz.jsonl", [{"question": QUESTION}])
    chosen = config(
        tmp_path,
        tokenizer=TokenizerConfig(path=f"{tmp_path}/bytes.tiktoken", pattern="gpt2"),
        decontaminate=DecontaminateConfig(tasks={"quiz": f"{tmp_path}/quiz.jsonl"}),
    )
    found = dry_run(chosen, "demo", workers=1)
    _, manifest = prepare(chosen, tmp_path / "out", "demo", workers=0)
    tokens = sum(source.num_tokens for source in manifest.sources)
    assert tokens / 1.6 < found.num_tokens.value < tokens * 1.6


def test_files_can_be_left_out(tmp_path: Path) -> None:
    for name in ("a.py", "build/b.py", "lib/build/c.py", "lib/d.py"):
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text(f"print({name!r})\n")
    source = SourceConfig(name="code", path=f"{tmp_path}/src", exclude=("build",))
    folder, manifest = prepare(settings(tmp_path, (source,)), tmp_path / "out", "demo", workers=0)
    assert set(texts_of_corpus(folder, manifest)) == {"a.py", "lib/d.py"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dedup": DedupConfig(minhash=MinHashConfig(threshold=1.0))}, "dedup.minhash.threshold: 1.0"),
        ({"decontaminate": DecontaminateConfig(tasks={})}, "decontaminate.tasks: 0 tasks"),
        ({"decontaminate": DecontaminateConfig(tasks={"Quiz": "x"})}, "decontaminate.tasks: 'Quiz'"),
        (
            {"decontaminate": DecontaminateConfig(tasks={"quiz": "/nowhere.jsonl"})},
            "decontaminate.tasks.quiz: /nowhere.jsonl does not exist",
        ),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_inputs(tmp_path)
    with pytest.raises(DataMistake, match=message):
        prepare(config(tmp_path, **changes), tmp_path / "out", "demo", workers=0)


@pytest.mark.slow
def test_over_the_nodes_of_a_running_ray(ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`RAY_ADDRESS`, as in a job of Ray's Jobs API: the cluster is used, and left running."""
    import subprocess
    import sys

    write_inputs(tmp_path)
    code = (
        "import sys; from pathlib import Path; from data_prep.build import prepare;"
        "from tests.data_prep.corpora import config;"
        "made = prepare(config(Path(sys.argv[1]), unit_bytes=4000), Path(sys.argv[1]) / 'out', 'demo');"
        "print(made[1].digest)"
    )
    port = int(ray_address.rpartition(":")[2]) - 1  # the lab puts the dashboard behind the head's port
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_ADDRESS": f"127.0.0.1:{port}", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = prepare(config(tmp_path), tmp_path / "alone", "demo", workers=0)[1].digest
    assert done.stdout.splitlines()[-1] == expected
