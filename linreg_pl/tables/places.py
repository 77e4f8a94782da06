"""Where tables lie: on this machine, or wherever pyarrow or fsspec reach by a URI such as ``s3://bucket/sales``.

`linreg_pl.tables.finding` finds the files of a table there, and `linreg_pl.tables.sources` reads them piece by piece.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import NamedTuple, TypeVar
from uuid import uuid4

from linreg_pl.errors import InputError
from linreg_pl.tables import arrow as pa

T = TypeVar("T")
COMPRESSED = (".gz", ".bz2", ".zst")  # which pyarrow knows by these endings
CONNECT_SECONDS, SILENT_SECONDS, LIMIT_SECONDS = 5, 15, 50  # S3 is asked up to three times
PASSWORD = re.compile(r"://[^/?#]*:[^/?#]+@|[?&][^=&]*(password|secret|account_key)[^=&]*=", re.IGNORECASE)
DENIED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS|SIGNATURE|credential|forbidden|unauthorized|\b40[13]\b", re.IGNORECASE
)
NOT_UTF8 = "is not UTF-8 text: save the file as UTF-8, or name its encoding, as in --data.encoding latin-1"


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn errors of reading a file, here or elsewhere, into one sentence that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        expected = isinstance(error, UnicodeDecodeError | pa.ArrowException | OSError)
        if not expected and (not is_uri(name) or type(error).__module__ == "builtins"):  # fsspec's clients have others
            raise
        said = " ".join(str(error).split())[:500] or type(error).__name__
        if isinstance(error, PermissionError) and not is_uri(name):
            raise InputError(f"{name}: cannot be read ({error.strerror})") from error
        if DENIED.search(said) and is_uri(name):
            said += "; set credentials as is usual there, e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise InputError(f"{name}: {NOT_UTF8 if 'utf' in said.lower() else said}") from error


class Place(NamedTuple):
    """Where a file or a folder is, or may be."""

    name: str  # for messages
    system: "pa.fs.FileSystem"
    path: str  # there
    folders: tuple[str, ...] = ()  # between the folder or pattern that was given and a file that was found
    size: int | None = None  # in bytes, as far as it is known

    @property
    def remote(self) -> bool:
        """Whether it is on another machine."""
        return bool(self.system.type_name != "local")

    @property
    def compressed(self) -> bool:
        """Whether its name ends as that of a compressed file."""
        return self._file_name.suffix.lower() in COMPRESSED

    @property
    def suffix(self) -> str:
        """What its name ends in, in lower case, but for what tells the compression."""
        name = self._file_name
        return (name.with_suffix("") if self.compressed else name).suffix.lower()

    @property
    def _file_name(self) -> PurePosixPath:
        return PurePosixPath(self.path.partition("?")[0] if self.path.startswith("http") else self.path)

    def open(self) -> "pa.NativeFile":
        """Open the file, to be read in any order."""
        return self.system.open_input_file(self.path)

    def copy_to(self, path: Path) -> None:
        """Copy all of the file, decompressed, into one of this machine."""
        with self.system.open_input_stream(self.path, buffer_size=2**20) as source, path.open("wb") as file:
            shutil.copyfileobj(source, file, 2**23)

    def inside(self, info: "pa.fs.FileInfo") -> "Place":
        """Return the place of a file inside this folder."""
        inner = info.path.removeprefix(self.path.rstrip("/")).lstrip("/")
        folders = tuple(inner.split("/")[:-1])
        return Place(f"{self.name.rstrip('/')}/{inner}", self.system, info.path, folders, info.size)


def is_uri(path: str) -> bool:
    """Tell whether a path begins as ``s3://`` does."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def refuse_password(uri: str, flag: str) -> None:
    """Raise InputError if a URI contains a password, without repeating it."""
    if PASSWORD.search(uri):
        raise InputError(
            f"{flag} {uri.split('://', maxsplit=1)[0]}://…: contains a password or key, which config.yaml and"
            " checkpoints would keep: leave it out, and set PGPASSWORD, AWS_SECRET_ACCESS_KEY or the like"
        )


def locate(path: str, flag: str) -> Place:
    """Return the place of a path or URI.

    The path within a URI is taken as it stands: ``%20`` in it is no space. Options of pyarrow's may follow, as in
    ``s3://bucket/t.parquet?endpoint_override=localhost:9000``; for http, what follows ``?`` belongs to the path.

    Raises:
        InputError: it contains a password, or neither pyarrow nor fsspec know such a place.
    """
    if not is_uri(path):
        return Place(path, pa.fs.LocalFileSystem(), path)
    refuse_password(path, flag)
    scheme, rest = path.split("://", 1)
    rest, *options = re.split(r"\?(?=\w+=)", rest, maxsplit=1)
    root, slash, inner = rest.partition("/")
    if scheme in ("gs", "gcs"):
        options = ["&".join([*options, f"retry_limit_seconds={SILENT_SECONDS}"])]  # of 15 minutes
    try:
        system, base = pa.fs.FileSystem.from_uri("?".join([f"{scheme}://{root}/", *options]))
    except pa.ArrowInvalid as error:
        if "nrecognized filesystem" in str(error):
            return _by_fsspec(path, flag)
        raise
    if system.type_name == "s3":  # gives up within a minute; by default it tries for longer
        _, (settings,) = system.__reduce__()  # as for another process
        settings |= {"connect_timeout": CONNECT_SECONDS, "request_timeout": SILENT_SECONDS}
        system = pa.fs.S3FileSystem(**settings, retry_strategy=pa.fs.AwsStandardS3RetryStrategy(max_attempts=3))
    return Place(f"{scheme}://{rest}", system, base.rstrip("/") + slash + inner)


def _by_fsspec(path: str, flag: str) -> Place:
    settings = {}
    try:
        import fsspec

        if path.startswith("http"):
            from aiohttp import ClientTimeout

            timeout = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
            settings["client_kwargs"] = {"timeout": timeout}
        system, inner = fsspec.core.url_to_fs(path, **settings)
        system.info(inner)
    except FileNotFoundError as error:  # as http says also if there is no connection
        cause = error.__cause__
        if cause and not isinstance(cause, FileNotFoundError) and getattr(cause, "status", None) != 404:
            raise cause from error
    except (ImportError, ValueError) as error:
        raise InputError(f"{path}: there is no way to this place ({error}) ({flag})") from error
    return Place(path, pa.fs.PyFileSystem(pa.fs.FSSpecHandler(system)), inner)


def answer(name: str, ask: Callable[[], T]) -> T:
    """Return what a function returns that asks another machine, unless this takes too long."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    if not wait([future], LIMIT_SECONDS).done:
        raise InputError(f"{name}: does not answer within {LIMIT_SECONDS} seconds")
    return future.result()


def upload(file: Path | None, place: Place) -> None:
    """Copy a file to a place elsewhere, where it appears whole or not at all; None only tries to write there.

    Raises:
        InputError: it cannot be written there.
    """
    # Closing an S3 object keeps what was written so far, also after an error: so it gets its name in the end.
    system, temporary = place.system, f"{place.path}.{uuid4().hex}.tmp"
    with readable(place.name):
        try:
            with system.open_output_stream(temporary, compression=None) as stream:
                if file is not None:
                    with file.open("rb") as source:
                        shutil.copyfileobj(source, stream, 2**23)
            if file is not None:
                system.move(temporary, place.path)
        finally:
            with suppress(Exception):
                system.delete_file(temporary)
