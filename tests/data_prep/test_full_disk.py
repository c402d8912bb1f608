"""A disk that is really full, in the middle of a build: one line, nothing committed is damaged, and more room mends it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.build import prepare
from data_prep.errors import DataMistake
from data_prep.plan import find_corpus
from data_prep.verify import verify
from tests.data_prep.corpora import config, files_of, write_inputs


def mount(*options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", *options], check=True, capture_output=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB in memory; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a file system")
    try:
        mount("-o", "size=1M", "none", str(folder))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no file system can be mounted here: {error.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # mapped files keep it busy


@pytest.mark.slow
def test_a_full_disk_ends_worker_processes_too_and_what_they_were_writing_is_gone(
    tmp_path: Path, small_disk: Path
) -> None:
    write_inputs(tmp_path)
    expected, manifest = prepare(config(tmp_path), tmp_path / "roomy", "demo", workers=0)
    chosen = config(tmp_path, unit_bytes=4_000)
    for size in ("300k", "700k"):
        mount("-o", f"remount,size={size}", "none", str(small_disk))
        with pytest.raises(DataMistake, match="no space is left where the corpus is written") as caught:
            prepare(chosen, small_disk, "demo", workers=3)
        assert "\n" not in str(caught.value)
        assert find_corpus(chosen, small_disk, "demo") is None
    mount("-o", "remount,size=64M", "none", str(small_disk))
    killed = small_disk / ".work-demo" / "refine" / ".writing-killed"
    killed.write_bytes(b"half a file")
    there: list[bool] = []
    folder, again = prepare(chosen, small_disk, "demo", workers=3, progress=lambda _: there.append(killed.exists()))
    assert not any(there), "it took up space during the next build"
    assert again == manifest
    assert files_of(folder) == files_of(expected)


def test_a_full_disk_is_one_line_and_more_room_mends_it(tmp_path: Path, small_disk: Path) -> None:
    write_inputs(tmp_path)
    expected, manifest = prepare(config(tmp_path), tmp_path / "roomy", "demo", workers=0)
    chosen = config(tmp_path, unit_bytes=4_000)
    sizes = []
    for size in ("300k", "500k", "700k"):
        mount("-o", f"remount,size={size}", "none", str(small_disk))
        with pytest.raises(DataMistake, match="no space is left where the corpus is written") as caught:
            prepare(chosen, small_disk, "demo", workers=0)
        assert "\n" not in str(caught.value)
        assert find_corpus(chosen, small_disk, "demo") is None
        assert not list(small_disk.rglob(".writing-*")), "half a file still takes up space"
        sizes.append(len(list((small_disk / ".work-demo").rglob("*.json"))))
    assert sizes == sorted(set(sizes)), "each try goes on where the last one ended"
    mount("-o", "remount,size=64M", "none", str(small_disk))
    folder, again = prepare(chosen, small_disk, "demo", workers=0)
    assert again == manifest
    assert files_of(folder) == files_of(expected)
    assert verify(folder) == ()
