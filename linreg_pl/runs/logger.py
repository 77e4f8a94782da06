"""The run's folder and its TensorBoard file."""

import re
import shutil
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from linreg_pl.errors import InputError
from linreg_pl.files import atomic_link, atomic_write

POINTS_AT_ONCE = 64  # of curves that are written together; also the longest time in seconds that one waits
METRIC_TAGS = ("train/mse", "val/mse", "train/r2", "val/r2", "train/loss")
COMPARED = ("batch_size", "lr", "model", "optimizer", "weight_decay")  # columns that TensorBoard shows unasked: five
COLUMNS = {  # of the HParams tab; every run writes all of them, because TensorBoard takes those of one run for all runs
    str: (
        "model",
        "optimizer",
        "loss",
        "path",
        "target",
        "formula",
        "features",
        "categorical",
        "weights",
        "missing",
        "penalty",
        "l1_ratio",
    ),
    bool: ("bias", "standardize", "average"),
    float: ("lr", "batch_size", "weight_decay", "ridge", "init_std", "seed", "num_features", "num_train", "noise_std"),
}
CHARTS = {  # titles, and patterns of the curves in each; TensorBoard 2.21 cannot draw names with a parenthesis here
    "log10 mse of training rows, noise floor": r"^log10/(train_mse|noise_floor)$",
    "coefficients, target units per column unit": r"^(weight/[^(]*|bias)$",
    "distance to the optimum, same units": r"^distance/[^(]*$",
    "log10 mse of validation rows": r"^log10/val_mse$",
}


class RunLogger(TensorBoardLogger):
    """TensorBoard logger that creates a new folder ``SAVE_DIR/NAME/version_N`` for every run.

    Args:
        save_dir: folder of all runs.
        name: folder of the runs of one kind.
        version: number of the run; by default the next free one.
    """

    def __init__(self, save_dir: str = "runs", name: str = "run", version: int | None = None) -> None:
        super().__init__(save_dir, name=name, version=version, default_hp_metric=False)
        self._is_new, self._has_metrics = version is None, False
        self._previous_run: tuple[Path, Path, dict[str, int]] | None = None
        self._points: list[tuple[Mapping[str, float], int | None, float]] = []

    def _get_next_version(self) -> int:
        """Create the next free folder. Creation is atomic, so two runs never share one."""
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            return 0  # process 0 tells the others the folder
        for version in count(super()._get_next_version()):
            with suppress(FileExistsError):
                Path(self.root_dir, f"version_{version}").mkdir(parents=True)
                break
        return version

    def continue_from(self, checkpoint: Path, folder: Path, sizes: dict[str, int]) -> None:
        """Start with checkpoint and curves of another run, so that none is lost if this one ends before it saves.

        Of the curves in the other run's folder, what was written after the checkpoint is left out, by the sizes that
        `event_file_sizes` returned when it was saved.

        Raises:
            InputError: a name is not that of an event file, as in a damaged checkpoint.
        """
        for name, size in sizes.items():
            if not re.fullmatch(r"events\.out\.tfevents\.[^/\\]*", name) or not isinstance(size, int):
                raise InputError(f"--ckpt_path {checkpoint}: is damaged: it names {name!r} as a file of curves")
        self._previous_run = checkpoint, folder, sizes

    def event_file_sizes(self) -> dict[str, int]:
        """Write what is buffered; return the sizes of this run's event files in bytes, by name."""
        self.save()
        return {path.name: path.stat().st_size for path in Path(self.log_dir).glob("events.out.tfevents.*")}

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """TensorBoard's writer; created with the run's folder on first use."""
        if self._previous_run is not None:
            (checkpoint, folder, sizes), self._previous_run = self._previous_run, None
            last = Path(self.log_dir, "checkpoints", "last.ckpt")
            last.parent.mkdir(parents=True, exist_ok=True)
            for name, size in sizes.items():
                if (folder / name).is_file():
                    atomic_write(Path(self.log_dir, name), (folder / name).read_bytes()[:size])
            atomic_link(checkpoint, last)
        return super().experiment

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, metrics: Any = None, step: int | None = None) -> None:
        """Write arguments and metrics of the HParams tab, and the charts of the Custom Scalars tab."""
        from tensorboard.plugins.hparams import api_pb2
        from tensorboard.plugins.hparams.metadata import create_summary_metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo
        from torch.utils.tensorboard.summary import custom_scalars

        kinds = {str: api_pb2.DATA_TYPE_STRING, bool: api_pb2.DATA_TYPE_BOOL, float: api_pb2.DATA_TYPE_FLOAT64}
        experiment = api_pb2.Experiment()
        for kind, names in COLUMNS.items():
            for name in names:
                experiment.hparam_infos.add(name=name, type=kinds[kind], differs=name in COMPARED)
        for tag in METRIC_TAGS:
            experiment.metric_infos.add(name=api_pb2.MetricName(tag=tag))
        start = SessionStartInfo()
        for key, value in (vars(params) if isinstance(params, Namespace) else params).items():
            if key.startswith("_"):
                continue
            if isinstance(value, bool):
                start.hparams[key].bool_value = value
            elif isinstance(value, (int, float)):
                start.hparams[key].number_value = value
            else:
                start.hparams[key].string_value = str(value)
        for part, content in {"experiment": experiment, "session_start_info": start}.items():
            metadata = create_summary_metadata(HParamsPluginData(**{part: content}))
            self._add_values([{"tag": f"_hparams_/{part}", "metadata": metadata}])
        charts = {title: ["Multiline", [tag]] for title, tag in CHARTS.items()}
        self._add_summary(custom_scalars({"The run at a glance": charts}))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write all scalars as one event, and many events at a time: TensorBoard's thread interrupts the steps."""
        self._has_metrics = True
        now = time.time()
        self._points.append((metrics, step, now))
        if len(self._points) >= POINTS_AT_ONCE or now > self._points[0][2] + POINTS_AT_ONCE:
            self._write_points()

    def _write_points(self) -> None:
        points, self._points = self._points, []
        for metrics, step, now in points:
            values = [{"tag": tag, "simple_value": float(value)} for tag, value in metrics.items()]
            self._add_values(values, step, now)

    @rank_zero_only
    def log_text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Write a text to the Text tab."""
        from torch.utils.tensorboard.summary import text

        summary = text(tag, markdown)
        summary.value[0].tag = tag  # `text` appends a suffix
        summary.value[0].tensor.ClearField("tensor_shape")  # a single text, not a table of texts
        self._add_summary(summary, step)

    @rank_zero_only
    def log_picture(self, tag: str, png: bytes, width: int, height: int, step: int) -> None:
        """Write a picture to the Images tab."""
        image = {"height": height, "width": width, "colorspace": 3, "encoded_image_string": png}
        self._add_values([{"tag": tag, "image": image}], step)

    def _add_values(self, values: list[dict[str, Any]], step: int | None = None, now: float | None = None) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add_summary(Summary(value=[Summary.Value(**value) for value in values]), step, now)

    def _add_summary(self, summary: Any, step: int | None = None, now: float | None = None) -> None:
        with self._write_errors():
            self.experiment._get_file_writer().add_summary(summary, step, now)

    @rank_zero_only
    def save(self) -> None:
        """Write what is buffered; config.yaml already holds the arguments."""
        self._write_points()
        with self._write_errors():
            self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is buffered; remove the folder of a run that failed before it logged or saved anything."""
        with suppress(OSError, InputError) if status == "failed" else self._write_errors():
            self._write_points()
            super().finalize(status)
        folder = Path(self.log_dir)
        if status == "failed" and self._is_new and not self._has_metrics and folder.is_dir():
            files = list(folder.iterdir())
            if all(file.match("config.yaml") or file.match("events.out.tfevents.*") for file in files):
                shutil.rmtree(folder)
                for parent in (folder.parent, folder.parent.parent):
                    with suppress(OSError):  # the folder holds other runs
                        parent.rmdir()

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Raise an InputError where TensorBoard cannot write; its own thread does not report that."""
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.log_dir}: the curves cannot be written ({error.strerror})") from error


def run_loggers(trainer: Trainer) -> list[RunLogger]:
    """Return the loggers of a Trainer that write to a run's folder."""
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]
