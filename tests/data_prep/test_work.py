"""The work folder: what a changed config runs again, that the result is what a build from nothing gives, and tidiness."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep import crew
from data_prep.build import prepare
from data_prep.config import CorpusConfig, DedupConfig, MinHashConfig, SourceConfig, TokenizerConfig
from data_prep.errors import DataMistake
from data_prep.manifest import Manifest
from data_prep.small import byte_tokenizer
from data_prep.work import BOOT_NAME, tidy
from tests.data_prep.corpora import config, files_of, texts, write_inputs, write_lines


def settings(folder: Path, min_words: int = 20, **changes: Any) -> CorpusConfig:
    """Two sources, one with a rule whose threshold is to be tried out; a tokenizer from a file."""
    (folder / "t.json").write_bytes(byte_tokenizer())
    base = config(folder, tokenizer=TokenizerConfig(path=str(folder / "t.json")), unit_bytes=4_000, **changes)
    rules = ({"rule": "gopher_quality", "min_words": min_words, "min_stop_words": 0}, "gopher_repeated_lines")
    return replace(base, sources=(replace(base.sources[0], rules=rules), base.sources[1]))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each task ran, and how often a unit was read and scored for one."""
    from data_prep import choosing

    ran: Counter[str] = Counter()
    guarded, refine_unit = crew.guarded, choosing.refine_unit

    def count(function: Any, arguments: tuple[Any, ...]) -> Any:
        ran[function.__name__] += 1
        return guarded(function, arguments)

    def refine(work: Any, name: str, unit: Any) -> Any:
        ran[f"refine {work.config.sources[unit.source].name}"] += 1
        return refine_unit(work, name, unit)

    with monkeypatch.context() as patched:
        patched.setattr(crew, "guarded", count)
        patched.setattr(choosing, "refine_unit", refine)
        yield ran


def build(chosen: CorpusConfig, out: Path) -> tuple[Path, Manifest]:
    return prepare(chosen, out, "demo", workers=0)


def assert_as_from_nothing(chosen: CorpusConfig, built: tuple[Path, Manifest], elsewhere: Path) -> None:
    fresh = build(chosen, elsewhere)
    assert built[1] == fresh[1]
    assert files_of(built[0]) == files_of(fresh[0])


@pytest.mark.parametrize("min_words", [1, 24, 60])
def test_a_changed_threshold_reads_nothing_and_gives_what_a_build_from_nothing_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, min_words: int
) -> None:
    write_inputs(tmp_path)
    first = build(settings(tmp_path), tmp_path / "out")
    with counted(monkeypatch) as ran:
        second = build(settings(tmp_path, min_words), tmp_path / "out")
    assert first[1].digest != second[1].digest
    assert first[1].sources[0].dropped != second[1].sources[0].dropped
    assert not [name for name in ran if name.startswith("refine")], "text was read again"
    assert_as_from_nothing(settings(tmp_path, min_words), second, tmp_path / "fresh")


def test_what_a_threshold_leaves_as_it_was_is_not_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inputs(tmp_path)
    build(settings(tmp_path), tmp_path / "out")
    with counted(monkeypatch) as ran:
        build(settings(tmp_path, 24), tmp_path / "out")
    with counted(monkeypatch) as all_of_it:
        build(settings(tmp_path, 24), tmp_path / "fresh")
    assert 0 < ran["encode_part"] < all_of_it["encode_part"] / 2


def test_a_changed_rule_reads_its_own_source_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path)
    base = settings(tmp_path)
    build(base, tmp_path / "out")
    changed = replace(base, sources=(base.sources[0], replace(base.sources[1], rules=("code_shape",))))
    with counted(monkeypatch) as ran:
        second = build(changed, tmp_path / "out")
    assert ran["refine code"] > 0
    assert ran["refine prose"] == 0
    assert_as_from_nothing(changed, second, tmp_path / "fresh")


def test_one_more_file_is_all_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path)
    base = settings(tmp_path)
    build(base, tmp_path / "out")
    write_lines(tmp_path / "prose" / "z.jsonl", [{"text": text} for text in texts(5, seed=9)])
    with counted(monkeypatch) as ran:
        second = build(base, tmp_path / "out")
    assert ran["refine prose"] == 1
    assert ran["refine code"] == 0
    assert_as_from_nothing(base, second, tmp_path / "fresh")


def test_after_the_machine_was_started_anew_whole_work_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inputs(tmp_path)
    folder, _ = build(settings(tmp_path), tmp_path / "out")
    (folder / "manifest.json").unlink()
    (tmp_path / "out" / ".work-demo" / BOOT_NAME).write_text("another start of the machine")
    with counted(monkeypatch) as ran:
        again = build(settings(tmp_path), tmp_path / "out")
    assert not [name for name in ran if name.startswith("refine") or name == "encode_part"]
    assert_as_from_nothing(settings(tmp_path), again, tmp_path / "fresh")


def test_a_file_that_is_no_tokenizer_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inputs(tmp_path)
    chosen = settings(tmp_path)
    (tmp_path / "t.json").write_text("{}")
    with counted(monkeypatch) as ran, pytest.raises(DataMistake, match=r"t\.json is no Hugging Face tokenizer\.json"):
        build(chosen, tmp_path / "out")
    assert list(ran) == ["make_tokenizer"]


def test_dedup_settings_do_not_read_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path)
    build(settings(tmp_path), tmp_path / "out")
    changed = settings(tmp_path, dedup=DedupConfig(exact=False))
    with counted(monkeypatch) as ran:
        second = build(changed, tmp_path / "out")
    assert not [name for name in ran if name.startswith("refine")]
    assert_as_from_nothing(changed, second, tmp_path / "fresh")


def test_the_work_folder_holds_what_the_last_build_used(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    build(settings(tmp_path), tmp_path / "out")
    work = tmp_path / "out" / ".work-demo"
    before = {path.name for path in (work / "refine").iterdir()}
    (work / "refine" / ".writing-left-behind").write_bytes(b"half")
    changed = settings(tmp_path, dedup=DedupConfig(minhash=MinHashConfig()))
    build(changed, tmp_path / "out")
    after = {path.name for path in (work / "refine").iterdir()}
    assert not before & after, "texts without MinHash keys are of no use to this build"
    assert ".writing-left-behind" not in after
    fresh = build(changed, tmp_path / "fresh")[0].parent / ".work-demo" / "refine"
    assert after == {path.name for path in fresh.iterdir()}


def test_work_can_be_thrown_away(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    kept, thrown = settings(tmp_path), settings(tmp_path, keep_work=False)
    folder, manifest = build(thrown, tmp_path / "out")
    work = tmp_path / "out" / ".work-demo"
    assert {path.name for path in work.rglob("*") if path.is_file()} == {"lock", "machine"}
    assert_as_from_nothing(kept, (folder, manifest), tmp_path / "kept")


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_kill_while_the_work_folder_is_tidied_leaves_no_record_without_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["docs.arrow", "a.npy", "z.npy"]
    names = [f"{number:032x}" for number in range(4)]
    unlink = Path.unlink
    for after in range(len(names) * (len(files) + 1)):
        stage = tmp_path / str(after) / "refine"
        stage.mkdir(parents=True)
        for name in names:
            for suffix in files:
                (stage / f"{name}-0000.{suffix}").touch()
            (stage / f"{name}.json").touch()
        left = after

        def mortal(path: Path, missing_ok: bool = False) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            unlink(path, missing_ok=missing_ok)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", mortal)
            with pytest.raises(Killed):
                tidy(stage.parent, set())
        for record in stage.glob("*.json"):
            assert all((stage / f"{record.stem}-0000.{suffix}").exists() for suffix in files)


def test_asking_for_what_was_dropped_throws_no_work_away(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    chosen = settings(tmp_path)
    build(chosen, tmp_path / "out")
    work = tmp_path / "out" / ".work-demo"
    before = {path.name for stage in ("refine", "read", "encode", "tokenizer") for path in (work / stage).iterdir()}
    prepare(chosen, tmp_path / "out", "demo", workers=0, keep_dropped=True)
    after = {path.name for stage in ("refine", "read", "encode", "tokenizer") for path in (work / stage).iterdir()}
    assert before == after


def test_two_sources_of_one_file_are_two_sources(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    path = f"{tmp_path}/prose/b.jsonl"
    two = (SourceConfig(name="one", path=path), SourceConfig(name="two", path=path))
    _, manifest = build(replace(settings(tmp_path), sources=two, dedup=DedupConfig(exact=False)), tmp_path / "out")
    kept = [source.documents_kept + source.documents_heldout for source in manifest.sources]
    assert kept == [120, 120]
