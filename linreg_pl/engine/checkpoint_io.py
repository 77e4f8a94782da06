"""Checkpoint files that no kill and no full disk can damage."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from linreg_pl.errors import InputError
from linreg_pl.files import atomic_write


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint completely or not at all, and keeps the one before it until then.

    Lightning stages it in the folder for temporary files and may have to copy it over the old one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write it durably; if that is not possible, say from where to go on."""
        path, content = Path(path), io.BytesIO()
        torch.save(checkpoint, content)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            atomic_write(path, content.getbuffer())
        except InputError as error:
            last = path.with_name("last.ckpt")
            raise InputError(f"{error}; {f'go on from {last}' if last.exists() else 'there is none yet'}") from error
