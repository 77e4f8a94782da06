"""Checkpoints as data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from linreg_pl.errors import InputError


def run_folder(checkpoint: Path) -> Path:
    """Return the folder of the run that a checkpoint belongs to."""
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def load_checkpoint(path: Path, flag: str = "--ckpt_path ") -> dict[str, Any]:
    """Read a checkpoint as data; one that holds code is refused.

    Args:
        path: the file.
        flag: what the path was given by, for messages.

    Raises:
        InputError: it is not there or cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{flag}{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        raise InputError(f"{flag}{path}: is not a checkpoint that can be read") from error
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    whole = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not whole or "pytorch-lightning_version" not in checkpoint:
        raise InputError(f"{flag}{path}: is not a checkpoint of this program")
    return checkpoint


def newest_run(runs: Path) -> Path | None:
    """Return the newest of the runs ``version_N`` in a folder, or None; a run has begun once it has its config."""
    begun = [path.parent for path in runs.glob("version_*/config.yaml") if path.parent.name[8:].isdecimal()]
    return max(begun, key=lambda path: int(path.name[8:]), default=None)


def newest(run: Path, tell: Callable[[str], object] = print) -> Path | None:
    """Return the newest checkpoint of a run that can be read, or None.

    Args:
        run: the run's folder.
        tell: is told of each that cannot be read.
    """
    paths = [path for path in run.glob("checkpoints/*.ckpt") if not path.name.startswith(".")]
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name == "last.ckpt"), reverse=True):
        try:
            load_checkpoint(path, flag="")
        except InputError as error:
            tell(f"{error}; taking the one before it")
        else:
            return path
    return None
