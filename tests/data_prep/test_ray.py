"""The build over real Ray workers: one digest whatever the number of workers and however often it was killed."""

import contextlib
import fcntl
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset

from data_prep.build import prepare
from data_prep.manifest import Manifest
from data_prep.shards import open_shard
from data_prep.verify import verify
from tests.data_prep.corpora import config, files_of, write_inputs
from tests.data_prep.drill import records
from tests.data_prep.killing import end_session, marked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def alone(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """What one process makes without Ray."""
    return prepare(config(inputs), tmp_path_factory.mktemp("alone"), "demo", workers=0)


@pytest.fixture(scope="module")
def by_five(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    import ray  # sets a variable when it is imported, which is not the build's to undo

    assert not ray.is_initialized()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        before = signal.getsignal(signal.SIGTERM), dict(os.environ)
        made = prepare(config(inputs, unit_bytes=4_000), tmp_path_factory.mktemp("five"), "demo", workers=5)
        assert (signal.getsignal(signal.SIGTERM), dict(os.environ)) == before
    return made


def test_five_workers_make_the_same_bytes(alone: tuple[Path, Manifest], by_five: tuple[Path, Manifest]) -> None:
    assert by_five[1] == alone[1]
    assert files_of(by_five[0]) == files_of(alone[0])


# webdataset leaves the files that it reads to the garbage collector, which Python warns of.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_the_shards(by_five: tuple[Path, Manifest]) -> None:
    folder, manifest = by_five
    for source in manifest.sources:
        paths = [str(folder / "shards" / shard.name) for shard in manifest.source_shards(source.name)]
        ours = np.concatenate([open_shard(Path(path), manifest) for path in paths])
        theirs = [np.frombuffer(one["bin"], "<u2") for one in webdataset.WebDataset(paths, shardshuffle=False)]
        assert np.array_equal(ours, np.stack(theirs))
    gc.collect()


INSIDE = """
import sys
from dataclasses import replace
from pathlib import Path
import ray
from data_prep.build import prepare
from data_prep.errors import DataMistake
from tests.data_prep.corpora import config
inputs, out = map(Path, sys.argv[1:])
def build():
    made = prepare(config(inputs, unit_bytes=9_000), out, "demo")[1].digest
    settings = config(inputs)
    broken = replace(settings.sources[0], name="cut", path=str(out / "cut.jsonl.gz"))
    try:
        prepare(replace(settings, sources=(*settings.sources, broken)), out, "demo")
    except DataMistake as error:
        return made, str(error), ray.is_initialized()
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print(*ray.get(ray.remote(build).remote()), sep="\\n")
"""


def test_inside_a_ray_worker_its_ray_is_used_and_mistakes_are_one_line(
    inputs: Path, alone: tuple[Path, Manifest], tmp_path: Path
) -> None:
    """One Ray with one core, so this is also the build by one worker."""
    (tmp_path / "cut.jsonl.gz").write_bytes(b"no gzip")
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INSIDE, str(inputs), str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd(), "RAY_USAGE_STATS_ENABLED": "0"},
    )
    digest, message, still_there = out.stdout.splitlines()[-3:]
    assert digest == alone[1].digest
    assert "cut.jsonl.gz is cut off or damaged" in message
    assert still_there == "True"


DRIVER = """
import sys
from pathlib import Path
from data_prep.build import prepare
from tests.data_prep.corpora import config
def show(progress):
    print(progress.stage, progress.done, flush=True)
print("end", prepare(config(Path(sys.argv[1]), unit_bytes=4_000), Path(sys.argv[2]), "demo", workers=2, progress=show))
"""


def start(inputs: Path, out: Path, temporary: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", DRIVER, str(inputs), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd(), "TMPDIR": temporary, "RAY_ADDRESS": "local"},
        start_new_session=True,
    )


def kill_driver(process: "subprocess.Popen[str]") -> None:
    process.kill()


def kill_worker(process: "subprocess.Popen[str]") -> None:
    """Ray starts another and gives it the task again: the build goes on."""
    for pid in marked(process.pid, "ray::guarded", "ray::IDLE")[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_all_of_ray(process: "subprocess.Popen[str]") -> None:
    for pid in marked(process.pid, "gcs_server", "raylet", "ray::"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


KILLS = int(os.environ.get("HEADRACE_KILLS", "1"))
"""How many builds are killed at a random instant; `HEADRACE_KILLS=20 pytest tests/data_prep/test_ray.py -k instant`."""


@pytest.mark.parametrize("attempt", range(KILLS))
@pytest.mark.timeout(600)
def test_killed_at_a_random_instant_it_ends_with_the_same_digest(
    inputs: Path, alone: tuple[Path, Manifest], tmp_path: Path, attempt: int
) -> None:
    """kill -9 of the driver, of a worker and of the whole Ray, one after another in one build, then left alone."""
    draw = random.Random(f"kill {attempt}")
    temporary = tempfile.mkdtemp(prefix="killed-", dir="/tmp")  # short, or Ray's sockets would go elsewhere
    order = draw.sample([kill_driver, kill_worker, kill_all_of_ray], k=3)
    sessions = []
    try:
        for kill in (*order, None):
            done = records(tmp_path)
            process = start(inputs, tmp_path, temporary)
            sessions.append(process.pid)
            assert process.stdout is not None
            lines = iter(process.stdout)
            if kill:
                for _ in zip(range(draw.randint(1, 60)), lines, strict=False):
                    pass
                kill(process)
            for _ in lines:
                pass
            code = process.wait()
            process.stdout.close()
            again = [path for path, when in records(tmp_path).items() if done.get(path, when) != when]
            assert not again, "what a killed build had recorded is not done again"
            assert code == 0 or kill is not None
            if kill is kill_worker:
                assert code == 0, "a lost worker must not end a build"
        folder, manifest = prepare(config(inputs, unit_bytes=4_000), tmp_path, "demo")  # finds it
        assert manifest == alone[1]
        assert files_of(folder) == files_of(alone[0])
        assert verify(folder) == ()
    finally:
        for session in sessions:
            end_session(session)
        shutil.rmtree(temporary, ignore_errors=True)


def waits_for_a_lock(pid: int) -> bool:
    """Linux marks in /proc/locks who is blocked."""
    return any(" -> " in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


def test_two_builds_of_one_name_take_turns(inputs: Path, alone: tuple[Path, Manifest], tmp_path: Path) -> None:
    """The second would tidy away what the first is working with."""
    work = tmp_path / ".work-demo"
    work.mkdir()
    code = DRIVER.replace("workers=2", "workers=0")
    with (work / "lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(inputs), str(tmp_path)],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
        )
        while not waits_for_a_lock(process.pid):
            assert process.poll() is None, "the second build did not wait"
            time.sleep(0.01)
        assert [path.name for path in work.iterdir()] == ["lock"]
    assert process.wait() == 0
    assert prepare(config(inputs, unit_bytes=4_000), tmp_path, "demo", workers=0)[1] == alone[1]


def test_importing_config_and_manifest_is_light() -> None:
    code = (
        "import sys, json; import data_prep.config, data_prep.manifest, data_prep.files;"
        " print(json.dumps(sorted(set(sys.modules) & {'numpy', 'ray', 'pyarrow', 'pydantic', 'fsspec', 'torch'})))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(out.stdout) == []
