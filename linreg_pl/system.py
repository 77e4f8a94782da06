"""What differs between Linux, macOS and Windows: files, locks, signals, consoles, processes."""

import builtins
import errno
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from io import FileIO, TextIOWrapper
from pathlib import Path
from threading import Lock
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

STOP_SIGNALS = tuple(  # of Ctrl-C, of a polite kill, and of closing the console of Windows
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)
STOPPED = tuple(128 + number for number in STOP_SIGNALS)  # exit statuses
OPEN_FILES = "/proc/self/fd"  # on Linux, where an open file needs no name
BINARY = getattr(os, "O_BINARY", 0)
DELETED_WHEN_CLOSED = getattr(os, "O_TEMPORARY", 0)  # on Windows, where open files keep their names
PAUSES = (0.01, 0.05, 0.25, 1.0, 3.0)  # seconds between attempts to replace a file that another program has open
IN_USE = (5, 32)  # Windows: access denied, sharing violation
_reading = Lock()


def sync(path: Path) -> None:
    """Flush a file to the disk, or the names in a folder where folders can be opened (not on Windows)."""
    is_folder = path.is_dir()
    if is_folder and not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR | BINARY)
    try:
        if hasattr(fcntl, "F_FULLFSYNC"):  # on macOS, fsync leaves data in the memory of the drive
            with suppress(OSError):  # network file systems cannot
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno != errno.EINVAL:  # some file systems sync no folders
            raise
    finally:
        os.close(descriptor)


def replace(source: Path, path: Path) -> None:
    """Rename a file to a name that may be taken; on Windows, wait for a scanner that has either file open."""
    for pause in PAUSES:
        try:
            return os.replace(source, path)
        except PermissionError as error:
            if getattr(error, "winerror", None) not in IN_USE:
                raise
        time.sleep(pause)
    return os.replace(source, path)


def open_temporary(path: Path) -> int:
    """Open or create a file of which `delete_when_closed` can be asked, by all processes alike."""
    return os.open(path, os.O_RDWR | os.O_CREAT | BINARY | DELETED_WHEN_CLOSED, 0o600)


def delete_when_closed(path: Path) -> None:
    """Have a file that all have opened deleted once all have closed it, also by being killed."""
    if not DELETED_WHEN_CLOSED:
        path.unlink()


def read_at(file: int, view: memoryview, place: int) -> None:
    """Fill a view from some place of a file on; any thread may."""
    if hasattr(os, "preadv"):
        os.preadv(file, [view], place)
    else:
        with _reading, FileIO(file, closefd=False) as reader:
            reader.seek(place)
            reader.readinto(view)


def temporary_file(suffix: str) -> tuple[Path, Callable[[], None]]:
    """Create an empty file that others can open; return its path and what deletes it.

    On Linux it has no name, so that not even a kill leaves it behind.
    """
    if Path(OPEN_FILES).is_dir():
        file: IO[bytes] = tempfile.TemporaryFile(prefix="linreg_pl-", suffix=suffix)  # noqa: SIM115
        # By the number of this process, so that those that it starts find the file too.
        return Path(f"/proc/{os.getpid()}/fd/{file.fileno()}"), file.close
    descriptor, name = tempfile.mkstemp(prefix="linreg_pl-", suffix=suffix)
    os.close(descriptor)
    return Path(name), lambda: Path(name).unlink(missing_ok=True)


def lock(folder: Path, until: ExitStack) -> bool:
    """Lock a folder until a stack is closed; return whether no other process held it."""
    path, flags = (folder, os.O_RDONLY) if fcntl else (folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        until.callback(os.close, descriptor := os.open(path, flags))
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:  # some file systems have no locks: nothing keeps others out
        return not isinstance(error, BlockingIOError | PermissionError)
    return True


def prepare_process() -> None:
    """Let consoles show what they can, and ``linreg.exe`` be started again by those who start further processes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # σ where there is only cp1252
    if Path(f"{sys.argv[0]}.exe").is_file():  # which Python cannot run by the name in sys.argv
        sys.modules["__main__"].__spec__ = find_spec("linreg_pl.__main__")


def open_as_utf8(package: str) -> None:
    """Have a package open text files as UTF-8, not in the encoding of the user's language, as all programs will."""

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "b" not in mode and not arguments:
            options.setdefault("encoding", "utf-8")
        return builtins.open(file, mode, *arguments, **options)  # noqa: PTH123

    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == package:
            vars(module).setdefault("open", opened)
