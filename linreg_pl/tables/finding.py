"""Finds the files of a table: in folders, also partitioned ones, and by patterns."""

import glob
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from threading import Timer

from linreg_pl.errors import InputError
from linreg_pl.tables import arrow as pa
from linreg_pl.tables.places import Place, answer, is_uri, locate, readable

NOTICE_SECONDS = 10  # before a word that it takes long


def find(path: str, flag: str, suffixes: Sequence[str]) -> list[Place]:
    """Return the files that a path means, in order.

    In a folder, these are the files with a known suffix, and those in folders below that are named as in
    ``year=2024/region=south``. What begins with ``_`` or ``.`` is passed over there.

    Raises:
        InputError: there is no such file, or what is asked does not answer.
    """

    def ask() -> "tuple[Place, pa.fs.FileInfo]":
        with readable(path):
            place = locate(path, flag)
            return place, place.system.get_file_info(place.path)

    place, info = answer(path, ask) if is_uri(path) else ask()
    with readable(place.name), _notice(place.name):
        if info.type == pa.fs.FileType.Directory:
            found = [file for file in _below(place) if file.suffix in suffixes]
            nothing = "is a folder without CSV, Parquet or Feather files"
        elif info.type == pa.fs.FileType.NotFound and glob.has_magic(place.path) and not place.path.startswith("http"):
            found, nothing = list(_matching(place)), "no file matches this pattern"
        else:
            found, nothing = [place._replace(size=info.size)] * info.is_file, "no such file"
        if not found and place.system.type_name == "s3":
            bucket = place.path.split("/")[0]
            if place.system.get_file_info(bucket).type == pa.fs.FileType.NotFound:
                nothing = f"there is no bucket {bucket!r}"
    if not found:
        raise InputError(f"{place.name}: {nothing} ({flag})")
    return sorted(found, key=lambda file: file.path.split("/"))


def _below(folder: Place) -> Iterator[Place]:
    infos = folder.system.get_file_info(pa.fs.FileSelector(folder.path))
    if any("=" in info.base_name for info in infos if info.type == pa.fs.FileType.Directory):
        infos = folder.system.get_file_info(pa.fs.FileSelector(folder.path, recursive=True))
    for info in infos:
        place = folder.inside(info)
        hidden = any(name.startswith(("_", ".")) for name in (*place.folders, info.base_name))
        if info.is_file and not hidden and all("=" in name for name in place.folders):
            yield place


def _matching(pattern: Place) -> Iterator[Place]:
    parts = pattern.path.split("/")
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    cut = sum(len(part) + 1 for part in parts[first:])
    folder = Place(pattern.name[:-cut], pattern.system, pattern.path[:-cut])
    if not pattern.remote:
        for path in glob.iglob(pattern.path, recursive=True):  # noqa: PTH207
            if not Path(path).is_dir():
                folders = Path(path).parts[len(Path(folder.path).parts) : -1]
                yield Place(path, pattern.system, path, folders, Path(path).stat().st_size)
        return

    def expand(base: str, parts: Sequence[str]) -> Iterator[Place]:
        recursive = parts[0] == "**"
        for info in folder.system.get_file_info(pa.fs.FileSelector(base, True, recursive)):
            names = info.path.removeprefix(base).strip("/").split("/")
            if info.is_file and _matches(names, parts):
                yield folder.inside(info)
            elif info.type == pa.fs.FileType.Directory and not recursive and _matches(names, parts[:1]) and parts[1:]:
                yield from expand(info.path, parts[1:])

    yield from expand(folder.path, parts[first:])


def _matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Tell whether the components of a path match those of a pattern, as `glob` understands it."""
    if not names or not parts:
        return not names and all(part == "**" for part in parts)
    hidden = names[0].startswith(".") and not parts[0].startswith(".")
    if parts[0] == "**":
        return _matches(names, parts[1:]) or (not hidden and _matches(names[1:], parts))
    return not hidden and fnmatchcase(names[0], parts[0]) and _matches(names[1:], parts[1:])


@contextmanager
def _notice(name: str) -> Iterator[None]:
    """Say what takes so long, if it does."""
    text = f"still looking for the files of {name} …"
    timer = Timer(NOTICE_SECONDS, print, (text,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
