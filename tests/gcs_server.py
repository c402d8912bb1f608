"""A real server of Google Cloud Storage's API in a process of its own; `tests.s3_server.proxy` can stand before it."""

import contextlib
import http.client
import json
from functools import partial
from pathlib import Path
from urllib.parse import quote

import gcsfs
import pytest

from tests.servers import files_below, serving

SERVER = """
import functools, http.server, sys, threading
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage
# The emulator's own server takes one connection at a time: clients that keep theirs would wait for each other.
handler = functools.partial(RequestHandler, Storage(use_memory_fs=True))
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
"""


def gcs_server() -> contextlib.AbstractContextManager[int]:
    """Its port on this machine."""
    return serving(SERVER)


def connect(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this server the one that fsspec and child processes talk to."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")
    # else each process looks for Google's own machines around it, to ask them what kind of bucket it is: for minutes
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcsfs.GCSFileSystem.clear_instance_cache()


def put(port: int, bucket: str, key: str | None = None, data: bytes = b"") -> None:
    """Makes a bucket or an object in it, which the emulator wants to be of a byte or more."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    if key is None:
        url, kind, body = "/storage/v1/b?project=tests", "application/json", json.dumps({"name": bucket}).encode()
    else:
        url = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(key, safe='')}"
        kind, body = "application/octet-stream", data
    connection.request("POST", url, body, {"Content-Type": kind})
    assert connection.getresponse().status in (200, 409), "made, or a bucket that there was before"
    connection.close()


def put_folder(port: int, bucket: str, folder: Path) -> None:
    files_below(folder, partial(put, port, bucket))


def is_object(path: str) -> bool:
    """Whether a GET asks for an object's bytes."""
    return path.startswith("/download/")
