"""Checkpoints on their way to the durable tier, in a thread beside training.

    a commit here ──> the thread: files ──> config, state, guard, journal ──> checkpoint.json ──> noted in uploads/
                         └── a newer commit waits, and replaces one that waits: nothing piles up

Training never waits for it but at its end. What could not be stored is told and training goes on; the next commit, or
the next start, tries the newest checkpoint again.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

from data_prep.errors import DataError
from pipeline.durable import check_pins
from pipeline.errors import PipelineError
from pipeline.remote import RemoteFolder
from pipeline.train.checkpoint import RECORD_NAME, Checkpoint, read_checkpoint
from pipeline.train.stored import (
    doubt_uploads,
    is_rewound,
    note_upload,
    remote_checkpoint,
    remote_digest,
    remote_steps,
    remove_stored,
    upload_note,
)
from pipeline.train.writer import Writer, check_writer, take_over
from pipeline.workspace import RunFolder

POLL_S = 0.1
ROLLBACKS = ("replay", "skip")
"""Verdicts of the guard that set checkpoints aside."""


def upload_checkpoint(
    run: RunFolder,
    remote: RemoteFolder,
    step: int,
    wanted: Callable[[], bool] = lambda: True,
    settling: AbstractContextManager[Any] | None = None,
    writer: Writer | None = None,
) -> Checkpoint | None:
    """Stores a checkpoint, its record last. Gives None if it is there already, or if it is no longer `wanted`, which is
    asked before each file, before the record and, while `settling` is held, before the note that it is stored: a
    rollback that came while the record was sent must not have its doubt written over. `remote` is the run's folder.

    Raises DataError if the store stays away, Mistake as `check_pins`: two runs of a name may have begun at once, and
    PipelineError if another job than `writer` stores this one by now.
    """
    check_pins(run, remote)
    there = remote_checkpoint(remote, step)
    with _held(run.checkpoint(step)) as folder:
        checkpoint, record = read_checkpoint(folder), (folder / RECORD_NAME).read_bytes()
        note = upload_note(run, remote, step)
        if there.read(RECORD_NAME) == record and (note is None or note.done):
            return None
        check_writer(remote, writer)
        note_upload(run, remote, step, done=False)
        there.remove(RECORD_NAME)  # that of a rewound checkpoint, or of a damaged one: its files change now
        for name in sorted(checkpoint.files):
            check_writer(remote, writer)
            if not wanted():
                return None
            there.put(name, folder / name)
        copy_run(run, remote, writer)
        check_writer(remote, writer)
        if not wanted():
            return None
        there.write(RECORD_NAME, record)
    with settling or nullcontext():
        if not wanted():
            return None
        note_upload(run, remote, step, done=True)
    return checkpoint


def copy_run(run: RunFolder, remote: RemoteFolder, writer: Writer | None) -> None:
    """What a resume elsewhere needs beside a checkpoint. All of it is small, and the journal grows meanwhile. Raises as
    `check_writer`."""
    for file in (run.config, run.state, run.guard, run.metrics):
        if file.exists():
            check_writer(remote, writer)
            remote.write(file.name, file.read_bytes())


@contextmanager
def _held(folder: Path) -> Iterator[Path]:
    """The checkpoint's files by links of our own, so that they stay when it is pruned or set aside meanwhile."""
    own = folder.with_name(f".{folder.name}.uploading")
    shutil.rmtree(own, ignore_errors=True)
    try:
        try:
            shutil.copytree(folder, own, copy_function=os.link)
        except OSError:  # a file system without hard links
            yield folder
        else:
            yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


class Uploader:
    """Brings the newest checkpoint of a run to the remote; to be told of each line of the journal by `heard`.

    `say` adds a line to the journal, and is only called by the thread that calls `heard`. Leaving the block waits for
    the newest checkpoint to be stored: after a notice to stop, or an error, `grace_s` at most.
    """

    def __init__(
        self,
        run: RunFolder,
        remote: RemoteFolder,
        say: Callable[..., None],
        *,
        grace_s: float,
        told_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._run, self._remote, self._say = run, remote, say
        self._grace_s, self._told_to_stop = grace_s, told_to_stop
        self._changed = threading.Condition()
        self._next: int | None = None
        self._passed: list[int] = []
        self._now: int | None = None
        self._writer: Writer | None = None
        self._resumed = self._closing = self._giving_up = False
        self._outcomes: SimpleQueue[dict[str, Any]] = SimpleQueue()
        # No pool: the interpreter would wait for its threads at the end, whatever the grace.
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)

    def __enter__(self) -> Self:
        for left in self._run.checkpoints.glob(".step-*.uploading"):  # by a crash inside an upload
            shutil.rmtree(left)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):  # nobody waits for an interrupt by hand
            return
        with self._changed:
            self._closing = True
            self._changed.notify()
        told_at: float | None = None
        while self._thread.is_alive():
            self._thread.join(POLL_S)
            if told_at is None and (kind is not None or self._told_to_stop()):
                told_at = time.monotonic()
            if told_at is not None and time.monotonic() - told_at >= self._grace_s:
                self._giving_up = True
                break
        self._tell()
        if self._giving_up:
            why = f"{self._remote.url}: the upload did not end within train.checkpoint.upload_grace_s={self._grace_s:g}"
            self._say("upload", problem=f"{why}; the next start stores what is missing")

    def heard(self, kind: str, figures: dict[str, Any]) -> None:
        """Takes a line of the journal, and adds what has come of uploads since."""
        with self._changed:
            if kind == "checkpoint":
                if self._next is not None:
                    self._passed.append(self._next)
                self._next = figures["step"]
            elif kind == "resume":  # from one that may have missed its upload
                self._next, self._resumed = figures["step"], True
            elif kind == "guard" and figures["verdict"] in ROLLBACKS:
                first = figures["first"]
                self._next = None if self._next is None or self._next >= first else self._next
                self._now = None if self._now is None or self._now >= first else self._now
                doubt_uploads(self._run, first)
            self._changed.notify()
        self._tell()

    def _tell(self) -> None:
        while True:
            try:
                outcome = self._outcomes.get_nowait()
            except Empty:
                return
            self._say("upload", **outcome)

    def _work(self) -> None:
        """The thread. It tidies up before it stores anything after a resume, and a rollback is one."""
        ended = False
        while not ended:
            with self._changed:
                while self._next is None and not self._closing:
                    self._changed.wait()
                ended = self._next is None
                step, self._now, self._next = self._next, self._next, None
                passed, self._passed = self._passed, []
                resumed, self._resumed = self._resumed, False
            try:
                self._claim()
                if resumed:
                    self._tidy()
                    resumed = False
                if step is not None:
                    self._upload(step, passed)
                else:
                    copy_run(self._run, self._remote, self._writer)  # with the journal's last lines
            except Exception as error:  # whatever it is: without this thread nothing would be stored any more
                self._outcomes.put({"step": step, "problem": f"{error}; the run goes on without it"})
                with self._changed:
                    self._resumed = self._resumed or resumed

    def _claim(self) -> None:
        """Before anything is changed at the remote. Raises as `take_over` the first time, as `check_writer` later."""
        check_pins(self._run, self._remote)
        if self._writer is None:
            self._writer = take_over(self._remote)
        check_writer(self._remote, self._writer)

    def _upload(self, step: int, passed: list[int]) -> None:
        began = time.perf_counter()
        if not self._run.checkpoint(step).exists():  # pruned while it waited
            return
        try:
            stored = upload_checkpoint(
                self._run,
                self._remote,
                step,
                wanted=lambda: self._wanted(step),
                settling=self._changed,
                writer=self._writer,
            )
        except (DataError, PipelineError, OSError):
            if self._wanted(step):
                raise
            return
        if stored is not None:
            size_bytes = sum(file.size_bytes for file in stored.files.values())
            figures = {"step": step, "digest": stored.digest, "size_bytes": size_bytes}
            self._outcomes.put({**figures, "upload_s": time.perf_counter() - began, "passed": passed})

    def _wanted(self, step: int) -> bool:
        return self._now == step and not self._giving_up

    def _tidy(self) -> None:
        """Removes what was stored of checkpoints that rollbacks have set aside, and what uploads from here that were
        broken off have left."""
        for step in remote_steps(self._remote):
            digest = remote_digest(self._remote, step)
            torn = digest is None and upload_note(self._run, self._remote, step) is not None
            if torn or (digest is not None and is_rewound(self._run, self._remote, step, digest)):
                remove_stored(self._run, self._remote, step)
