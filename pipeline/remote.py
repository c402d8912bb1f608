"""A folder in a store: what the second, durable tier of a workspace is made of. Any fsspec URL.

No folder here is renamed into place, for object stores cannot: whoever writes puts the record last, and whoever reads
compares every byte with a record before its use. A name that comes out of a store, from a listing or a record, is taken
for a plain name in this folder or not at all. Credentials are fsspec's business: its usual environment variables.
"""

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from data_prep.files import TEMPORARY_PREFIX, sha256_file, sync_folder
from data_prep.remote import ShortAnswer, asked, one_line, store_of
from pipeline.errors import Mistake, PipelineError

Answer = TypeVar("Answer")
Moving = TypeVar("Moving")
STORE_AGAIN = "remove the corpus's folder there, and run headrace prep where it is whole"
"""What mends a damaged corpus in a store: files that are as long as they should be are not sent again."""
FILES_AT_ONCE = 4
"""Of a corpus or a checkpoint, going or coming; the stores' own clients move the parts of a large one side by side."""
Moved = Callable[[int, int], None]
"""`moved(done, total)`: files that have gone or come, and all of them."""
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class Damaged(PipelineError):
    """A file in a store is missing, or not what the record that covers it says; the message names it."""


def plain_path(name: str) -> str:
    """The relative path, if each of its parts is a plain name: no `..`, no root, nothing hidden, no character that any
    store or system reads otherwise. Raises Damaged."""
    if not all(_PLAIN.fullmatch(part) for part in name.split("/")):
        raise Damaged(f"{name!r} is no name that headrace gives a file; whatever names it is damaged or not ours")
    return name


def nobody_looks(done: int, total: int) -> None:
    """For files that come or go without a word."""


@dataclass(frozen=True)
class RemoteFolder:
    """The files at a URL, by their paths below it. Every call asks the store again when it fails, a while long.

    Raises DataError when the store stays away, Mistake for what no waiting mends.
    """

    url: str

    def at(self, path: str) -> "RemoteFolder":
        """A folder below."""
        return RemoteFolder(self._url(path))

    def names(self) -> list[str]:
        """Plain names of what lies right in this folder, sorted; none if it does not exist."""
        store, path = store_of(self.url)

        def listed() -> list[str]:
            store.invalidate_cache()  # what this process saw before may be gone
            return [str(name) for name in store.ls(path, detail=False)]

        found = self._asked(self.url, listed, missing=[])
        names = {PurePosixPath(name.rstrip("/")).name for name in found}
        return sorted(name for name in names if _PLAIN.fullmatch(name))

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None if there is no such file."""
        store, path = store_of(self._url(name))
        found: bytes | None = self._asked(self._url(name), lambda: bytes(store.cat_file(path)), missing=None)
        return found

    def size_bytes(self, name: str) -> int | None:
        """A file's size; None if there is no such file."""
        store, path = store_of(self._url(name))

        def size() -> int:
            store.invalidate_cache()
            return int(store.info(path)["size"])

        found: int | None = self._asked(self._url(name), size, missing=None)
        return found

    def write(self, name: str, data: bytes) -> None:
        """Stores a few bytes, in place of those that are there."""
        store, path = store_of(self._url(name))
        self._written(name, lambda: _replaced(store, path, lambda to: store.pipe_file(to, data)))

    def put(self, name: str, file: Path) -> None:
        """Stores a local file, in place of the one that is there."""
        store, path = store_of(self._url(name))

        def whole() -> None:
            _replaced(store, path, lambda to: store.put_file(str(file), to))
            store.invalidate_cache()
            stored, expected = int(store.info(path)["size"]), file.stat().st_size
            if stored != expected:
                raise ShortAnswer(f"{stored} bytes were stored where {expected} were sent")

        self._written(name, whole)

    def fetch(self, name: str, to: Path, sha256: str, size_bytes: int | None = None) -> None:
        """Brings a file here, under its name only once its bytes are those recorded; at once if they are here already.
        A wrong size, where one is recorded, spares the bytes.

        Raises Damaged if the store has none, or another one.
        """
        if to.is_file() and sha256_file(to) == sha256:
            return
        url = self._url(name)
        store, path = store_of(url)
        there = self.size_bytes(name)
        if there is None:
            raise Damaged(f"{url} is missing")
        if size_bytes not in (None, there):
            raise Damaged(f"{url} has {there} bytes, its record says {size_bytes}")
        to.parent.mkdir(parents=True, exist_ok=True)
        coming = to.with_name(f"{TEMPORARY_PREFIX}{to.name}")

        def whole() -> bool:
            store.get_file(path, str(coming))
            if coming.stat().st_size != there:
                raise ShortAnswer(f"{coming.stat().st_size} bytes came where {there} were asked for")
            return True

        try:
            if not self._asked(url, whole, missing=False):
                raise Damaged(f"{url} is missing")
            if sha256_file(coming) != sha256:
                raise Damaged(f"{url} does not match its recorded sha256")
            with coming.open("rb") as file:
                os.fsync(file.fileno())
            coming.replace(to)
        finally:
            coming.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        store, path = store_of(self._url(name))
        if self.size_bytes(name) is not None:
            self._written(name, lambda: store.rm_file(path))

    def remove_all(self) -> None:
        """Removes the folder."""
        store, path = store_of(self.url)

        def gone() -> None:
            store.invalidate_cache()
            if store.exists(path):
                store.rm(path, recursive=True)

        self._asked(self.url, gone, missing=None, done="removed")

    def _url(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{plain_path(name)}"

    def _written(self, name: str, write: Callable[[], None]) -> None:
        url = self._url(name)
        try:
            asked(url, write, done="written")
        except FileNotFoundError as error:
            raise Mistake(f"remote: {url} cannot be written: {one_line(error)}; make its bucket first") from error
        except OSError as error:
            raise Mistake(f"remote: {url} cannot be written: {one_line(error)}; check the credentials") from error

    def _asked(self, url: str, ask: Callable[[], Answer], *, missing: Any, done: str = "read") -> Any:
        try:
            return asked(url, ask, done=done)
        except FileNotFoundError:
            return missing
        except OSError as error:
            raise Mistake(f"remote: {url} cannot be {done}: {one_line(error)}; check the credentials") from error


def _replaced(store: Any, path: str, send: Callable[[str], None]) -> None:
    """Sends a file whole or not at all. Object stores do so by themselves; on a disk, where a writer may be killed and
    room may run out, what was there before must outlive it."""
    if "file" not in store.protocol:
        send(path)
        return
    coming = Path(path).with_name(f"{TEMPORARY_PREFIX}{Path(path).name}")
    coming.parent.mkdir(parents=True, exist_ok=True)
    try:
        send(str(coming))
        with coming.open("rb") as file:
            os.fsync(file.fileno())
        coming.replace(path)
    finally:
        coming.unlink(missing_ok=True)
    sync_folder(coming.parent)


def side_by_side(move: Callable[[Moving], None], files: Sequence[Moving], moved: Moved = nobody_looks) -> None:
    """Moves all files; the first error ends it when those under way are through."""
    pool = ThreadPoolExecutor(max_workers=FILES_AT_ONCE, thread_name_prefix="remote")
    try:
        for done, _ in enumerate(pool.map(move, files), start=1):
            moved(done, len(files))
    finally:
        pool.shutdown(cancel_futures=True)
