"""Fits of a Parquet table from a local S3 server: peak memory and speed, beside those from disk and pyarrow alone.

    python tests/benchmarks/places.py [--rows 20000000] [--folder /tmp]

Writes the tables of `table.py`, 0.9 GB and twice as much, and serves them by a process that answers the two requests
of S3 that reading needs; moto, which the tests use, reads whole objects for each of them. Each fit is a whole process,
whose peak resident memory the operating system reports. Speeds are slopes, so that start-up is excluded.
"""

import argparse
import multiprocessing
import os
import re
import tempfile
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
from pyarrow import fs, parquet
from table import fit, write_table


class Objects(BaseHTTPRequestHandler):
    """Answers HEAD and GET of objects, which are the files of a folder."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments, folder: Path) -> None:
        self.folder = folder
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, content: bool) -> None:
        path = self.folder / Path(self.path).name
        size = path.stat().st_size if path.is_file() else 0
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = (int(asked[1]), int(asked[2] or size - 1) + 1) if asked else (0, size)
        self.send_response(404 if not size else 206 if asked else 200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if content and size:
            with path.open("rb") as file:
                while start < stop:
                    start += os.sendfile(self.wfile.fileno(), file.fileno(), start, stop - start)


def serve(folder: Path, started: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Objects, folder=folder))
    started.send(server.server_address[1])
    server.serve_forever()


def read(uri: str) -> tuple[float, float]:
    """Seconds that pyarrow takes to read a table in bounded memory, as it is documented, and nothing else."""
    start = time.perf_counter()
    system, path = fs.FileSystem.from_uri(uri)
    with system.open_input_file(path) as opened, parquet.ParquetFile(opened, pre_buffer=True) as file:
        for group in range(file.num_row_groups):
            file.read_row_group(group)
    return time.perf_counter() - start, pa.default_memory_pool().max_memory() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--folder", type=Path, help="where the tables go; default: the folder for temporary files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        paths = [Path(folder, f"{rows}.parquet") for rows in (options.rows, 2 * options.rows)]
        for rows, path in zip((options.rows, 2 * options.rows), paths, strict=True):
            write_table(path, rows)
            print(f"{rows} rows, {path.stat().st_size / 1e9:.2f} GB", flush=True)
        here, there = multiprocessing.Pipe()
        server = multiprocessing.Process(target=serve, args=(Path(folder), there), daemon=True)
        server.start()
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{here.recv()}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        uris = [f"s3://bucket/{path.name}" for path in paths]
        works = {
            "pyarrow alone, from S3": (read, uris),
            "Exact, from S3": (lambda uri: fit(uri, "Exact"), uris),
            "Exact, from disk": (lambda path: fit(path, "Exact"), paths),
        }
        print(f"{'':>24}{'M rows/s':>10}{'peak MB':>10}{'peak MB, twice the rows':>26}")
        for name, (work, tables) in works.items():
            runs = [[work(table) for table in tables] for _ in range(3)]
            short, long = (min(run[which][0] for run in runs) for which in (0, 1))
            peaks = [max(run[which][1] for run in runs) for which in (0, 1)]
            speed = options.rows / (long - short) / 1e6
            print(f"{name:>24}{speed:>10.1f}{peaks[0]:>10.0f}{peaks[1]:>26.0f}", flush=True)
        server.terminate()


if __name__ == "__main__":
    main()
