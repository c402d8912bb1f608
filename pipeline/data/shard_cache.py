"""The shards of a corpus in a store, fetched whole, ahead of need, into a folder that stays within a budget of bytes.

    order ──prepare──> what comes next ──thread──┐
    loader ──opened──> what is read now ─────────┴──> CACHE/SHA256.tar ──mapped──> tokens

A file's name is what its bytes are: it appears, by rename, when they have been fetched and their sha256 compared, once.
So all ranks of a node share a folder, and so may several runs; who comes second waits for whoever is fetching. The
oldest files make room for new ones, but none that a reader has open: readers hold a shared lock of the system on it,
which ends with them however they end. A reader holds one shard at a time, and none while it waits for room, so that any
budget of one shard is enough to get on, if slowly, and nobody waits for each other in a ring.
"""

import fcntl
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from stat import S_ISDIR
from typing import BinaryIO

from data_prep.errors import DataError
from data_prep.files import TEMPORARY_PREFIX
from data_prep.manifest import Manifest, ShardRecord
from data_prep.pack import Tokens
from data_prep.remote import ShortAnswer, asked, one_line, store_of
from pipeline.data.corpus_shards import open_as_recorded
from pipeline.data.order import Order
from pipeline.errors import Mistake
from pipeline.locks import locked
from pipeline.remote import STORE_AGAIN

RANGE_BYTES = 8 << 20
"""Asked of the store at a time: what is lost, and asked for again, when an answer is cut short."""
MOST_AHEAD = 3
"""Shards of each source fetched before the one in use is through. One takes minutes to read and seconds to fetch."""
POLL_S = 0.05
"""How often to look whether somebody else has fetched a shard, or made room for it."""
LOCK_NAME = "lock"
OURS = re.compile(rf"({re.escape(TEMPORARY_PREFIX)})?[0-9a-f]{{64}}\.tar")
"""Nothing else in the folder is counted or removed."""


def default_folder() -> Path:
    """A cache folder in the system's temporary folder that nobody else can write to: shards are verified only when they
    are fetched. Raises Mistake if there is one of that name that is not so."""
    folder = Path(tempfile.gettempdir()) / f"headrace-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise Mistake(f"{folder}: another user may write there; give a folder of your own as data.cache_folder")
    return folder


class ShardCache:
    """`url` is the folder that holds the shards. The cache folder best lies on a disk of the machine's own.

    Raises Mistake as `check_budget`, or if the folder cannot be written to.
    """

    def __init__(self, url: str, folder: Path, budget_bytes: int, manifest: Manifest, order: Order) -> None:
        check_budget(budget_bytes, manifest)
        check_writable(folder)
        self._url, self._folder, self._budget_bytes = url.rstrip("/"), folder, budget_bytes
        self._manifest, self._order = manifest, order
        self._records = [manifest.source_shards(source.name) for source in manifest.sources]
        at_once = sum(one[0].size_bytes for one in self._records)
        self._shards_each = min(1 + MOST_AHEAD, budget_bytes // at_once)
        self._next: SimpleQueue[int | None] = SimpleQueue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fetch_ahead, name="shard-cache", daemon=True)
        self._thread.start()

    @contextmanager
    def opened(self, shard: ShardRecord) -> Iterator[Tokens]:
        """The shard's tokens, (num_sequences, sequence_length); it is fetched if need be, and not evicted meanwhile.

        Raises DataError, naming the URL, if the store fails for good or has other bytes than the manifest records.
        """
        file = self._hold(shard)
        assert file is not None
        with file:
            yield open_as_recorded(self._path(shard), shard, self._manifest)

    def prepare(self, position: int) -> None:
        if self._shards_each > 1:  # else one source's next shard would drive out another's that is in use
            self._next.put(position)

    def close(self) -> None:
        """Whoever fetches stops at the next answer of the store."""
        self._closed.set()
        self._next.put(None)

    def _path(self, shard: ShardRecord) -> Path:
        return self._folder / f"{shard.sha256}.tar"

    def _writing(self, shard: ShardRecord) -> Path:
        return self._folder / f"{TEMPORARY_PREFIX}{shard.sha256}.tar"

    def _fetch_ahead(self) -> None:
        """What the thread does, for the newest position that it has heard of."""
        position = self._next.get()
        while position is not None:
            if self._next.empty():
                self._fetch_from(position)
            position = self._next.get()

    def _fetch_from(self, position: int) -> None:
        """Fetches what is not there, and touches what is, so that it is not the oldest."""
        for source, shard in self._order.shards_from(position, self._shards_each):
            # Whoever needs the shard will hear of it, and of no other error either may the thread end: without it each
            # shard would be waited for, and nobody told.
            with suppress(Exception):
                file = self._hold(self._records[source][shard], wait=False)
                if file is not None:
                    file.close()

    def _hold(self, shard: ShardRecord, *, wait: bool = True) -> BinaryIO | None:
        """The shard's file, open and under a shared lock. Without `wait`, None if it is not to be had now: another
        fetches it, or there is no room."""
        while True:
            with self._deciding():
                file = self._held(shard)
                claim = None if file else self._claimed(shard)
            if file:
                return file
            if claim:
                return self._fetched(shard, claim)
            if not wait:
                return None
            if self._closed.wait(POLL_S):
                raise DataError(f"{self._url}/{shard.name} was not waited for: the loader is closed")

    @contextmanager
    def _deciding(self) -> Iterator[None]:
        """One at a time, of all processes, decides what is held, evicted and fetched; nobody fetches meanwhile."""
        with locked(self._folder / LOCK_NAME):
            yield

    def _held(self, shard: ShardRecord) -> BinaryIO | None:
        """None too if the file is not as long as it was when it was named: something else has been at it since."""
        try:
            file = self._path(shard).open("rb")
        except FileNotFoundError:
            return None
        if os.fstat(file.fileno()).st_size != shard.size_bytes:
            _drop(self._path(shard), file)
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        os.utime(file.fileno())  # the youngest
        return file

    def _claimed(self, shard: ShardRecord) -> BinaryIO | None:
        """The file to fetch into, under an exclusive lock and with its room on the disk; None if it is another's, or if
        there is no room. One that a dead process has left is nobody's."""
        path = self._writing(shard)
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
        if not _taken(file):
            file.close()
            return None
        try:
            if self._make_room(path, shard.size_bytes):
                file.truncate(0)
                os.posix_fallocate(file.fileno(), 0, shard.size_bytes)
                return file
        except OSError as error:
            _drop(path, file)
            raise DataError(
                f"data.cache_bytes: {self._folder} has no room for {shard.size_bytes} bytes more ({one_line(error)}); "
                "make it less, or choose another data.cache_folder"
            ) from error
        _drop(path, file)
        return None

    def _make_room(self, claim: Path, size_bytes: int) -> bool:
        """Whether so many bytes more fit into the budget, by now: the oldest files that nobody has open are gone."""
        files = [(path.stat(), path) for path in self._folder.iterdir() if OURS.fullmatch(path.name) and path != claim]
        total = sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda one: one[0].st_mtime_ns):
            if total + size_bytes <= self._budget_bytes:
                break
            with path.open("rb") as file:
                if _taken(file):
                    path.unlink()
                    total -= stat.st_size
        return total + size_bytes <= self._budget_bytes

    def _fetched(self, shard: ShardRecord, claim: BinaryIO) -> BinaryIO:
        """Fills a claim, and makes it the shard's file."""
        try:
            self._download(shard, claim)
        except BaseException:
            with self._deciding():
                _drop(self._writing(shard), claim)
            raise
        with self._deciding():
            fcntl.flock(claim, fcntl.LOCK_SH)
            self._writing(shard).replace(self._path(shard))
        return claim

    def _download(self, shard: ShardRecord, file: BinaryIO) -> None:
        """Raises DataError if the bytes that the store has are not those recorded."""
        url = f"{self._url}/{shard.name}"
        store, path = store_of(url)
        digest = hashlib.sha256()
        for start in range(0, shard.size_bytes, RANGE_BYTES):
            end = min(start + RANGE_BYTES, shard.size_bytes)

            def answer(start: int = start, end: int = end) -> bytes:
                if self._closed.is_set():
                    raise DataError(f"{url} was not fetched: the loader is closed")
                data = bytes(store.cat_file(path, start=start, end=end))
                if len(data) != end - start:
                    raise ShortAnswer(f"{len(data)} bytes where {end - start} were asked for")
                return data

            try:
                data = asked(url, answer)
            except OSError as error:
                raise DataError(f"{url} cannot be read: {one_line(error)}; {STORE_AGAIN}") from error
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())  # its name will say that these are its bytes, also if the power fails
        if digest.hexdigest() != shard.sha256:
            raise DataError(
                f"{url}: sha256 is {digest.hexdigest()[:16]}…, not {shard.sha256[:16]}… as the manifest records; "
                f"{STORE_AGAIN}"
            )


def check_budget(budget_bytes: int, manifest: Manifest) -> None:
    """Raises Mistake if the budget cannot hold the largest shard."""
    largest = int(manifest.shards.table["size_bytes"].max())
    if budget_bytes < largest:
        raise Mistake(
            f"data.cache_bytes: {budget_bytes} cannot hold one shard of {largest} bytes; "
            f"{2 * len(manifest.sources) * largest} hold two of each source, so that none is waited for"
        )


def check_writable(folder: Path) -> None:
    """Makes a cache folder. Raises Mistake if it cannot be used."""
    try:
        with locked(folder / LOCK_NAME):
            pass
    except OSError as error:
        raise Mistake(
            f"data.cache_folder: {folder} cannot be written to ({one_line(error)}); choose a folder of your own on a "
            "disk of each machine"
        ) from error


def _taken(file: BinaryIO) -> bool:
    """Whether the exclusive lock of an open file could be had."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _drop(path: Path, file: BinaryIO) -> None:
    path.unlink()
    file.close()
