"""Stores other than this machine's disks: which one a URL names, and asking it again when it fails.

The stores' own libraries ask again too, each for faults of its choice: s3fs five times after a timeout, a broken
connection or "SlowDown", botocore after other 5xx answers. What still comes through is asked again here
whatever it is, for each library raises errors of its own; only what no waiting mends is passed on at once.
"""

import errno
import time
from collections.abc import Callable
from typing import Any, TypeVar

from data_prep.errors import DataError, DataMistake

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""How long to wait before each new try, besides what the libraries wait."""
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError")
"""Names, as botocore and google-auth need not be there."""
Answer = TypeVar("Answer")


class ShortAnswer(OSError):
    """A store sent fewer or more bytes than were asked for. A body cut short is no end of a file."""


def is_local(url: str) -> bool:
    return "://" not in url


def store_of(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it. Raises DataMistake if there is none for it."""
    import fsspec

    try:
        store, path = fsspec.core.url_to_fs(url)
        return store, path
    except ImportError as error:
        raise DataMistake(f"{url}: {error}; for s3:// install headrace[s3], for gs:// headrace[gcs]") from error
    except ValueError as error:
        raise DataMistake(f"{url}: {one_line(error)}; give a path or a URL that fsspec knows") from error


def asked(url: str, ask: Callable[[], Answer], *, done: str = "read") -> Answer:
    """The store's answer, asked again after each of `PAUSES_S`. Raises the `LASTING` errors as they are; DataMistake
    without credentials, DataError when the tries are used up, both naming the URL and what cannot be `done`."""
    for pause_s in (*PAUSES_S, None):
        try:
            return ask()
        except (*LASTING, DataError):
            raise
        except Exception as error:
            if type(error).__name__ in NO_CREDENTIALS:
                raise DataMistake(f"{url}: {one_line(error)}; set the store's environment variables") from error
            if _is_refusal(error):
                raise PermissionError(errno.EACCES, one_line(error)) from error
            if pause_s is None:
                tries = len(PAUSES_S) + 1
                raise DataError(
                    f"{url} cannot be {done}: its store failed {tries} times, last with {one_line(error)};"
                    " run again when it is well: what was finished is kept"
                ) from error
            time.sleep(pause_s)
    raise AssertionError


def _is_refusal(error: Exception) -> bool:
    """Whether it is gcsfs's for a 401 or 403; s3fs makes a PermissionError of those itself."""
    return getattr(error, "code", None) == 401 or str(error).startswith("Forbidden: ")


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
