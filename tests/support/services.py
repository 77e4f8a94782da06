"""Servers that tests start on this machine: S3, one that fails, and PostgreSQL."""

import contextlib
import http.client
import logging
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from pyarrow import fs

POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)
BUCKET = "tables"


class S3(NamedTuple):
    """A server with one bucket, at which AWS_ENDPOINT_URL points."""

    port: int

    @property
    def system(self) -> fs.FileSystem:
        """Its files."""
        return fs.FileSystem.from_uri(f"s3://{BUCKET}?endpoint_override=http://127.0.0.1:{self.port}")[0]

    def put(self, key: str, content: bytes) -> str:
        """Write an object and return its URI."""
        with self.system.open_output_stream(f"{BUCKET}/{key}", compression=None) as stream:
            stream.write(content)
        return f"s3://{BUCKET}/{key}"

    def get(self, key: str) -> pa.Buffer:
        """Return the content of an object."""
        with self.system.open_input_file(f"{BUCKET}/{key}") as file:
            return file.read_buffer()

    def keys(self, prefix: str) -> list[str]:
        """Return the objects whose names begin so."""
        infos = self.system.get_file_info(fs.FileSelector(BUCKET, recursive=True))
        names = [info.path.removeprefix(f"{BUCKET}/") for info in infos if info.is_file]
        return sorted(name for name in names if name.startswith(prefix))


@contextlib.contextmanager
def s3_server() -> Iterator[S3]:
    """Start moto's server in this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
    port = server.get_host_and_port()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        fs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
        ).create_dir(BUCKET)
        yield S3(port)
    server.stop()


class Faulty(ThreadingHTTPServer):
    """Passes requests on to another server until it shall not.

    Attributes:
        silent: answer nothing.
        sends, takes: cut connections as soon as so many bytes of contents have been sent, or received.
        only_signed: refuse requests without credentials.
    """

    daemon_threads = True
    silent = only_signed = False
    sends = takes = 2**62

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.port = port
        self.ended = threading.Event()


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Faulty

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def chunks(self) -> Iterator[bytes]:
        while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
            yield self.rfile.read(size)
            self.rfile.readline()

    def pass_on(self) -> None:
        body = b"".join(self.chunks()) or self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.takes -= len(body)
        if self.server.silent:
            self.server.ended.wait()
        if self.server.silent or (body and self.server.takes < 0):
            self.close_connection = True
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port)
        headers = {n: v for n, v in self.headers.items() if n.lower() not in ("transfer-encoding", "expect")}
        connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        answer = connection.getresponse()
        content = answer.read()
        status = 403 if self.server.only_signed and "Authorization" not in self.headers else answer.status
        self.send_response(status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        cut = len(content) > max(self.server.sends, 0)
        self.wfile.write(content[: max(self.server.sends, 0)])
        self.server.sends -= len(content)
        self.close_connection = cut
        connection.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815


@contextlib.contextmanager
def faulty_server(s3: S3) -> Iterator[Faulty]:
    """Put a faulty server before an S3 server."""
    server = Faulty(s3.port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        yield server
    server.ended.set()
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Start PostgreSQL on a socket of its own, by a user that is not root, and yield the URI of a database."""
    assert POSTGRES is not None
    nobody = pwd.getpwnam("nobody")
    who: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    who = who if os.getuid() == 0 else {}
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    home.chmod(0o777)
    options = {"cwd": home, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **who}
    initdb = [POSTGRES, "-D", home / "data", "-U", "tester", "-A", "trust", "--no-sync", "--locale=C.UTF-8"]
    subprocess.run(initdb, check=True, **options)
    command = [POSTGRES.with_name("postgres"), "-D", home / "data", "-k", home, "-c", "listen_addresses=", "-F"]
    with subprocess.Popen(command, **options) as server:
        try:
            deadline = time.monotonic() + 60
            while not (home / ".s.PGSQL.5432").exists() or not _ready(home):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield f"postgresql://tester@/postgres?host={home}"
        finally:
            server.terminate()
    shutil.rmtree(home)


def _ready(home: Path) -> bool:
    assert POSTGRES is not None
    asked = [POSTGRES.with_name("pg_isready"), "-h", home]
    return subprocess.run(asked, stdout=subprocess.DEVNULL, check=False).returncode == 0
