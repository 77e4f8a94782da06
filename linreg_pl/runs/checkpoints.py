"""Finding and reading checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from linreg_pl.errors import InputError
from linreg_pl.files import file_of_run


def run_folder(checkpoint: Path) -> Path:
    """Return the folder of the run that a checkpoint belongs to."""
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def load_checkpoint(path: Path, flag: str = "--ckpt_path ") -> dict[str, Any]:
    """Read a checkpoint; one that holds anything but data is refused. Messages begin with the flag that gave the path.

    Raises:
        InputError: it does not exist, cannot be read or is not a checkpoint of this program.
    """
    if not path.is_file():
        raise InputError(f"{flag}{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for damaged files
        raise InputError(f"{flag}{path}: is not a checkpoint that can be read") from error
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    has_state = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not has_state or "pytorch-lightning_version" not in checkpoint:
        raise InputError(f"{flag}{path}: is not a checkpoint of this program")
    return checkpoint


def load_last(run: Path) -> tuple[Path, dict[str, Any]]:
    """Read the last checkpoint of a run; return its path too.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = file_of_run(run, "checkpoints/last.ckpt")
    return path, load_checkpoint(path, flag="")


def newest_run(runs: Path) -> Path | None:
    """Return the newest run ``version_N`` in a folder that has started, i.e. has its config, or None."""
    started = [path.parent for path in runs.glob("version_*/config.yaml") if path.parent.name[8:].isdecimal()]
    return max(started, key=lambda path: int(path.name[8:]), default=None)


def newest(run: Path, tell: Callable[[str], object] = print) -> Path | None:
    """Return the newest readable checkpoint of a run, or None; ``tell`` gets a message for each unreadable one.

    What a kill left of files that were being written is removed.
    """
    for left in run.rglob(".*.tmp"):
        left.unlink(missing_ok=True)
    paths = [path for path in run.glob("checkpoints/*.ckpt") if not path.name.startswith(".")]
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name == "last.ckpt"), reverse=True):
        try:
            load_checkpoint(path, flag="")
        except InputError as error:
            tell(f"{error}; taking the one before it")
        else:
            return path
    return None
