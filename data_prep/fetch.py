"""The bytes of an input file, and the promise that they are those of the file that was listed.

A file that ends early, was changed or is gone fails the build in one line: half a file would be a silently different
corpus. Local files are read as they are; of others, ranges are asked for, and each answer must be as long as asked.
"""

import io
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import DataMistake
from data_prep.inputs import InputFile
from data_prep.listing import version_now
from data_prep.remote import ShortAnswer, asked, is_local, one_line, store_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LOCAL_BYTES = 1 << 20
RANGE_BYTES = 8 << 20
"""Asked of a store at a time: a request costs a round trip whatever its size."""
OVERLAP_BYTES = 1 << 16
"""Asked for behind a slice's end, to find the end of its last line."""


@contextmanager
def reading(file: InputFile) -> Iterator[None]:
    """Turns what a missing, changed, cut or damaged file raises into one line that names it, and checks at the end
    that it is still the file that was listed."""
    import pyarrow as pa
    import zstandard

    try:
        yield
        check_unchanged(file)
    except FileNotFoundError as error:
        raise DataMistake(f"{file.url} is gone since the inputs were listed; put it back or run again") from error
    except (EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException, OSError) as error:
        if isinstance(error, PermissionError):
            raise DataMistake(
                f"{file.url} cannot be read: {error.strerror or one_line(error)}; check its permissions"
            ) from error
        if isinstance(error, OSError) and error.errno:  # Arrow's own have no number
            raise DataMistake(f"{file.url} cannot be read: {error.strerror}; check its disk") from error
        check_unchanged(file)
        raise DataMistake(
            f"{file.url} is cut off or damaged ({one_line(error)}); fetch it again or take it out"
        ) from error


def check_unchanged(file: InputFile) -> None:
    """Raises DataMistake if the file is not the one that was listed, FileNotFoundError if there is none."""
    if version_now(file.url) != (file.size_bytes, file.version):
        raise DataMistake(f"{file.url} was changed since the inputs were listed; run again when nobody writes to it")


def read_chunks(file: InputFile, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The file's bytes from `start` to its last; about what is behind `end` is asked for little by little."""
    end = file.size_bytes if end is None else end
    return _local_chunks(file, start) if is_local(file.url) else _remote_chunks(file, start, end)


def _local_chunks(file: InputFile, start: int) -> Iterator[bytes]:
    with Path(file.url).open("rb", buffering=0) as opened:
        opened.seek(start)
        while start < file.size_bytes:
            data = opened.read(min(LOCAL_BYTES, file.size_bytes - start))
            if not data:
                raise EOFError("it ends before its size")
            yield data
            start += len(data)


def _remote_chunks(file: InputFile, start: int, end: int) -> Iterator[bytes]:
    """The next range is under way while one is worked on."""
    coming: Future[bytes] | None = None
    with ThreadPoolExecutor(max_workers=1) as pool:
        ranges = list(_ranges(start, end, file.size_bytes))
        for place, (begin, behind) in enumerate(ranges):
            data = coming.result() if coming else read_range(file, begin, behind)
            following = ranges[place + 1] if place + 1 < len(ranges) else (end, end)
            coming = pool.submit(read_range, file, *following) if following[0] < end else None
            yield data


def _ranges(start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    step = RANGE_BYTES
    while start < size:
        if start >= end:
            step, limit = OVERLAP_BYTES if start == end else min(2 * step, RANGE_BYTES), size
        else:
            limit = end
        behind = min(start + step, limit)
        yield start, behind
        start = behind


def read_range(file: InputFile, start: int, end: int) -> bytes:
    """Bytes [start, end) of a file in a store."""
    if start >= end:
        return b""
    store, path = store_of(file.url)

    def whole_range() -> bytes:
        data = bytes(store.cat_file(path, start=start, end=end))
        if len(data) != end - start:
            raise ShortAnswer(f"{len(data)} bytes where {end - start} were asked for")
        return data

    return asked(file.url, whole_range)


class RangeFile(io.RawIOBase):
    """A file in a store as Arrow wants it: it seeks and reads what it needs, each read one range."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size_bytes}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        end = self._file.size_bytes if size < 0 else min(self._file.size_bytes, self._position + size)
        data = read_range(self._file, self._position, end)
        self._position += len(data)
        return data

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)
