"""Atomic writing: after a crash, a file is either complete or absent."""

import csv
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from linreg_pl.errors import InputError
from linreg_pl.system import replace, sync

HERE = Path(__file__).parent
CONFIGS = HERE / "configs" if (HERE / "configs").is_dir() else HERE.parent / "configs"  # of a wheel, or of a checkout


def shipped_names(suffix: str = ".yaml") -> dict[str, Path]:
    """Return the configs, or other files, that come with this program, by names such as ``exercises/lr``."""
    found = sorted(CONFIGS.rglob(f"*{suffix}"))
    return {path.relative_to(CONFIGS).as_posix().removesuffix(".yaml"): path for path in found}


def shipped(name: str | Path, suffix: str = ".yaml") -> str:
    """Return the path of a shipped file if a name is that of one and of no other file, else the name."""
    wanted = Path(name).as_posix().removeprefix("configs/").removesuffix(".yaml")
    return str(name) if Path(name).is_file() else str(shipped_names(suffix).get(wanted, name))


def file_of_run(run: Path, name: str) -> Path:
    """Return a file in the folder of a run, or raise InputError if there is none."""
    path = run / name
    if not path.is_file():
        raise InputError(f"{run}: holds no {name}; give the folder of a run, runs/NAME/version_N")
    return path


def atomic_write(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically: a crash, a full disk or a power failure leaves the previous file or the new one.

    Raises InputError if the file cannot be written.
    """
    temporary = _temporary(path)
    try:
        temporary.write_bytes(content)
        commit(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def csv_bytes(rows: Sequence[Mapping[str, object]]) -> bytes:
    """Return rows as CSV, with a column for each key; a cell is empty if its row does not have the key."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def atomic_link(source: Path, path: Path) -> None:
    """Link a file atomically, or copy it where links are not possible."""
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
        sync(temporary)
    replace(temporary, path)


def _temporary(path: Path) -> Path:
    """Return a path beside a file, under which this process may write what is to become the file."""
    return path.parent / f".{path.name}.{os.getpid()}.tmp"


def commit(temporary: Path, path: Path) -> None:
    """Flush a finished temporary file to disk, then rename it; both paths must be on the same file system."""
    sync(temporary)
    replace(temporary, path)
    sync(path.parent)
