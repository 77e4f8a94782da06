"""The run's folder and its TensorBoard file."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

METRIC_TAGS = ("train/loss", "train/mse", "train/r2", "val/mse", "val/r2")


class RunLogger(TensorBoardLogger):
    """TensorBoard logger that makes a folder ``SAVE_DIR/NAME/version_N`` of its own for every run.

    Args:
        save_dir: folder of all runs.
        name: folder of the runs of one kind.
        version: number of the run; by default the next free one.
    """

    def __init__(self, save_dir: str = "runs", name: str = "run", version: int | None = None) -> None:
        super().__init__(save_dir, name=name, version=version, default_hp_metric=False)

    def _get_next_version(self) -> int:
        """Create the next free folder. Creation is atomic, so two runs never share one."""
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            return 0  # the other processes are told the folder by process 0
        version = super()._get_next_version()
        Path(self.root_dir).mkdir(parents=True, exist_ok=True)
        while True:
            try:
                Path(self.root_dir, f"version_{version}").mkdir()
            except FileExistsError:
                version += 1
            else:
                return version

    @rank_zero_only
    def log_hyperparams(
        self,
        params: dict[str, Any] | Namespace,
        metrics: dict[str, Any] | None = None,
        step: int | None = None,
    ) -> None:
        """Write the arguments for TensorBoard's HParams tab, with the scalars that exist anyway as its metrics."""
        from torch.utils.tensorboard.summary import hparams

        given = vars(params) if isinstance(params, Namespace) else params
        simple = {
            key: value if isinstance(value, (bool, int, float)) else str(value)
            for key, value in given.items()
            if not key.startswith("_")
        }
        for summary in hparams(simple, dict.fromkeys(METRIC_TAGS, 0.0)):
            self.experiment._get_file_writer().add_summary(summary)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write scalars as one event, which costs a fraction of one event for each."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in metrics.items()]
        self.experiment._get_file_writer().add_summary(Summary(value=values), step)

    @rank_zero_only
    def save(self) -> None:
        """Write what is buffered; the arguments are in config.yaml already."""
        self.experiment.flush()
