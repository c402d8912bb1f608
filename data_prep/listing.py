"""Which files a path names: one file, all files of a folder, or those that match a glob.

A path that exists is taken as it is, also when it has the marks of a glob in its name. Local folders are walked here
and not by fsspec, which leaves out what it may not read, and every link, without a word.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from data_prep.errors import DataError, DataMistake
from data_prep.remote import asked, is_local, one_line, store_of

MARKS = re.compile(r"[*?\[]")
IsExcluded = Callable[[str], bool]


@dataclass(frozen=True, kw_only=True)
class Listed:
    url: str
    """Local path or fsspec URL."""
    relative: str
    """Name below the fixed part of the path, `/` between folders."""
    size_bytes: int
    version: str
    """Cheap evidence that a file is still the same; empty if its store offers none."""


def list_files(path: str, exclude: Iterable[str], where: str) -> list[Listed]:
    """The path's files, sorted by relative name, without those that a pattern of `exclude` matches.

    `where` opens each message. Raises DataMistake if there is no file, or one that cannot be told.
    """
    path = re.sub("^(file|local)://", "", path)
    try:
        files = list((_list_local if is_local(path) else _list_store)(path, _excluder(exclude), where))
    except FileNotFoundError as error:
        raise DataMistake(f"{where} does not exist; check the path") from error
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise DataMistake(
            f"{where} cannot be listed: {error.strerror or one_line(error)}{place}; check that it can be read"
        ) from error
    except DataError as error:
        raise type(error)(str(error) if str(error).startswith(where) else f"{where}: {error}") from error
    return sorted(files, key=lambda file: file.relative)


def _excluder(patterns: Iterable[str]) -> IsExcluded:
    """Whether a relative path, or a folder above it, matches a pattern. One without `/` is a name at any depth."""
    from fsspec.utils import glob_translate

    rooted = [one.strip("/") if "/" in one.rstrip("/") else f"**/{one.rstrip('/')}" for one in patterns]
    match = re.compile("|".join(map(glob_translate, rooted))).match if rooted else None

    def is_excluded(relative: str) -> bool:
        return match is not None and any(map(match, accumulate(relative.split("/"), "{}/{}".format)))

    return is_excluded


def _fixed_part(path: str) -> tuple[str, str]:
    """The folder before the first mark of a glob, and the pattern below it."""
    mark = MARKS.search(path)
    root = path[: mark.start() if mark else len(path)].rpartition("/")[0]
    return root, path[len(root) :].lstrip("/")


def _missing(path: str, is_folder: bool, where: str) -> DataMistake:
    if is_folder:
        return DataMistake(f"{where} is an empty folder, or no file is left of it; name one with text in it")
    hint = "matches no file; check the pattern" if MARKS.search(path) else "does not exist; check the path"
    return DataMistake(f"{where} {hint}")


def _list_local(path: str, is_excluded: IsExcluded, where: str) -> Iterator[Listed]:
    place = Path(os.path.normpath(Path(path).expanduser().absolute()))
    if place.is_dir():
        found = [(relative, place / relative) for relative in _walk(place, is_excluded)]
    elif place.exists() or place.is_symlink():
        found = [(place.name, place)]
    else:
        found = [(relative, root / relative) for root, relative in _local_glob(str(place), is_excluded)]
    if not found:
        raise _missing(path, place.is_dir(), where)
    for relative, file in found:
        yield _listed_local(relative, file, where)


def _local_glob(pattern: str, is_excluded: IsExcluded) -> Iterator[tuple[Path, str]]:
    """(fixed part, relative name) of what matches, as fsspec understands a glob."""
    from fsspec.utils import glob_translate

    root, below = _fixed_part(pattern)
    folder = Path(root or "/")
    if below and folder.is_dir():
        matches = re.compile(glob_translate(below)).match
        depth = None if "**" in below else below.count("/")
        yield from ((folder, name) for name in _walk(folder, is_excluded, depth) if matches(name))


def _walk(
    folder: Path, is_excluded: IsExcluded, depth: int | None = None, prefix: str = "", above: tuple[Any, ...] = ()
) -> Iterator[str]:
    """Relative names of all that is no folder, through links to folders too, at most `depth` folders down."""
    found = folder.stat()
    own = found.st_dev, found.st_ino
    if own in above:
        raise DataMistake(f"{folder} links to a folder that it is in; take it out")
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if is_excluded(name):
                continue
            if not entry.is_dir():
                yield name
            elif depth != 0:
                deeper = None if depth is None else depth - 1
                yield from _walk(Path(entry.path), is_excluded, deeper, f"{name}/", (*above, own))


def _listed_local(relative: str, path: Path, where: str) -> Listed:
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise DataMistake(f"{where}: {relative} is a link to nothing, or just vanished; take it out") from error
    if not stat.S_ISREG(found.st_mode):
        raise DataMistake(f"{where}: {relative} is neither a file nor a folder; take it out")
    return Listed(url=str(path), relative=relative, size_bytes=found.st_size, version=_local_version(found))


def _local_version(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime!r}-{found.st_ino}"


def _list_store(url: str, is_excluded: IsExcluded, where: str) -> Iterator[Listed]:
    store, path = store_of(url)
    store.invalidate_cache()  # what an earlier listing of this process saw may be gone
    root, is_folder = path.rstrip("/"), asked(url, lambda: store.isdir(path))
    if is_folder:
        found = asked(url, lambda: store.find(path, detail=True))
    elif not MARKS.search(path) or asked(url, lambda: store.exists(path)):
        root, found = path.rpartition("/")[0], {path: asked(url, lambda: store.info(path))}
    else:
        root, found = _fixed_part(path)[0], asked(url, lambda: store.glob(path, detail=True))
    files = {str(info["name"])[len(root) :].lstrip("/"): info for info in found.values() if info["type"] == "file"}
    kept = [relative for relative in files if not is_excluded(relative)]
    if not kept:
        raise _missing(path, is_folder, where)
    for relative in kept:
        info = files[relative]
        if info["size"] is None:
            raise DataMistake(f"{where}: the store does not tell the size of {relative}; copy it to a disk first")
        yield Listed(
            url=store.unstrip_protocol(info["name"]),
            relative=relative,
            size_bytes=int(info["size"]),
            version=_store_version(info),
        )


def _store_version(info: dict[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "md5", "crc32c"):
        if info.get(key):
            return f"{key}-{info[key]}"
    return ""


def version_now(url: str) -> tuple[int, str]:
    """(size in bytes, version) of a listed file as it is by now. Raises FileNotFoundError if it is gone."""
    if is_local(url):
        found = Path(url).stat()
        return found.st_size, _local_version(found)
    store, path = store_of(url)
    store.invalidate_cache()
    info = asked(url, lambda: store.info(path))
    return int(info["size"]), _store_version(info)
