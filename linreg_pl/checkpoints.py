"""Checkpoints as data."""

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
        raise InputError(f"{flag}{path}: no such file")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        raise InputError(f"{flag}{path}: is not a checkpoint that can be read") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "pytorch-lightning_version"} <= checkpoint.keys():
        raise InputError(f"{flag}{path}: is not a checkpoint of this program")
    return checkpoint
