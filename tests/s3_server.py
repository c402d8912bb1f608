"""A real S3 server in a process of its own, and a proxy before it that fails as it is told."""

import contextlib
import http.client
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
import s3fs

from tests.servers import files_below, serving

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
BODIES = {
    "500": b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>",
    "503": b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
}


def s3_server() -> contextlib.AbstractContextManager[int]:
    """Its port on this machine."""
    return serving(SERVER)


def environment(port: int) -> dict[str, str]:
    """What a user sets for a store of their own."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }


def connect(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this server the one that fsspec and child processes talk to."""
    for name, value in environment(port).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


def put(port: int, bucket: str, key: str | None = None, data: bytes = b"") -> None:
    """Makes a bucket or an object in it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=someone/20240101/us-east-1/s3/aws4_request"}
    connection.request("PUT", f"/{bucket}" + (f"/{quote(key)}" if key else ""), data, headers)
    assert connection.getresponse().status == 200
    connection.close()


def put_folder(port: int, bucket: str, folder: Path) -> None:
    files_below(folder, partial(put, port, bucket))


class Proxy(ThreadingHTTPServer):
    """Hands requests on. To each GET or PUT of an object it does what comes next in `faults`; `seen` has what it did.

    `is_object` tells by its path what a GET asks for. A PUT that `holds` picks by its path goes nowhere: `held` says
    that it has come.
    """

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.faults: deque[str] = deque()
        self.always = ""
        self.is_object: Callable[[str], bool] = lambda path: "?" not in path and path.count("/") > 1
        self.seen: list[str] = []
        self.holds: Callable[[str], bool] = lambda path: False
        self.held = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what some faults are about."""

    def next_fault(self) -> str:
        fault = self.faults.popleft() if self.faults else self.always
        self.seen.append(fault)
        return fault


@contextlib.contextmanager
def proxy(behind: int) -> Iterator[Proxy]:
    with Proxy(behind) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(*self._ask(), body_follows=False)

    def do_DELETE(self) -> None:
        self._answer(*self._ask())

    def do_POST(self) -> None:
        self._answer(*self._ask())

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.holds(self.path):
            self.server.held.set()
            self.connection.recv(1)  # until the client is gone
            self.close_connection = True
        elif not self._failed(self.server.next_fault()):
            self._answer(*self._ask(body))

    def do_GET(self) -> None:
        fault = self.server.next_fault() if self.server.is_object(self.path) else ""
        if self._failed(fault):
            return
        if fault == "stall":
            self.connection.recv(1)  # until the client gives up
            self.close_connection = True
        else:
            status, headers, body = self._ask()
            half = body[: len(body) // 2]
            if fault == "cut":  # less than it says
                self._answer(status, headers, half, len(body))
                self.close_connection = True
            else:  # less than was asked for, and says so
                self._answer(status, headers, half if fault == "short" else body)

    def _failed(self, fault: str) -> bool:
        """Does what needs no answer from behind; gives whether it did."""
        if fault.isdigit():
            self._answer(int(fault), {"Content-Type": "application/xml"}, BODIES.get(fault, b""))
        elif fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        return fault.isdigit() or fault == "reset"

    def _ask(self, sent: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        if sent is None and "Content-Length" in self.headers:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=30)
        connection.request(self.command, self.path, sent, headers=dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
        connection.close()
        return answer.status, headers, body

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, length: int | None = None, body_follows: bool = True
    ) -> None:
        self.send_response_only(status)
        if body_follows:
            headers = {name: value for name, value in headers.items() if name.lower() != "content-length"}
            headers["Content-Length"] = str(len(body) if length is None else length)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body_follows:
            self.wfile.write(body)
            self.wfile.flush()


HOP_BY_HOP = ("connection", "transfer-encoding", "keep-alive")
