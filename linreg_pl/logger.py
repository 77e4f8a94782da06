"""The run's folder and its TensorBoard file."""

import re
import shutil
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from linreg_pl.errors import InputError
from linreg_pl.files import copy_whole, write_whole

METRIC_TAGS = ("train/mse", "val/mse", "train/r2", "val/r2", "train/loss")
COMPARED = ("batch_size", "lr", "model", "optimizer", "weight_decay")  # TensorBoard shows five, others at a click
COLUMNS = {  # every run writes them all: TensorBoard takes those of one run for all runs
    str: ("model", "optimizer", "loss", "path", "target", "features", "categorical", "weights", "missing"),
    bool: ("bias", "standardize"),
    float: ("lr", "batch_size", "weight_decay", "ridge", "init_std", "seed", "num_features", "num_train", "noise_std"),
}
CHARTS = {  # titles, and patterns of the curves in each; TensorBoard 2.21 fails to draw names with a parenthesis here
    "log10 mse of training rows, noise floor": r"^log10/(train_mse|noise_floor)$",
    "coefficients, target units per column unit": r"^(weight/[^(]*|bias)$",
    "distance to the optimum, same units": r"^distance/[^(]*$",
    "mse per epoch, training and validation": r"^(train|val)/mse$",
}


class RunLogger(TensorBoardLogger):
    """TensorBoard logger that makes a folder ``SAVE_DIR/NAME/version_N`` of its own for every run.

    Args:
        save_dir: folder of all runs.
        name: folder of the runs of one kind.
        version: number of the run; by default the next free one.
    """

    def __init__(self, save_dir: str = "runs", name: str = "run", version: int | None = None) -> None:
        super().__init__(save_dir, name=name, version=version, default_hp_metric=False)
        self._is_new, self._has_metrics = version is None, False
        self._beginning: tuple[Path, Path, dict[str, int]] | None = None

    def _get_next_version(self) -> int:
        """Create the next free folder. Creation is atomic, so two runs never share one."""
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            return 0  # the other processes are told the folder by process 0
        version = super()._get_next_version()
        while True:
            try:
                Path(self.root_dir, f"version_{version}").mkdir(parents=True)
            except FileExistsError:
                version += 1
            else:
                return version

    def begin_with(self, checkpoint: Path, folder: Path, written: dict[str, int]) -> None:
        """Let this run begin with what another one has, so that nothing is lost where it ends before it has saved.

        Args:
            checkpoint: where this run goes on.
            folder: of the other run.
            written: what `written` told when the checkpoint was made; the curves that came later are taken anew.

        Raises:
            InputError: other files are named, which only a forged checkpoint does.
        """
        for name, size in written.items():
            if not re.fullmatch(r"events\.out\.tfevents\.[^/\\]*", name) or not isinstance(size, int):
                raise InputError(f"--ckpt_path {checkpoint}: holds {name!r} for a file of curves; it was tampered with")
        self._beginning = checkpoint, folder, written

    def written(self) -> dict[str, int]:
        """Write what is buffered; tell the bytes of this run's event files by their names."""
        self.save()
        return {path.name: path.stat().st_size for path in Path(self.log_dir).glob("events.out.tfevents.*")}

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """TensorBoard's writer; made, with the run's folder, when it is first asked for."""
        if self._beginning is not None:
            (checkpoint, folder, written), self._beginning = self._beginning, None
            own = Path(self.log_dir)
            (own / "checkpoints").mkdir(parents=True, exist_ok=True)
            for name, size in written.items():
                if (folder / name).is_file():
                    write_whole(own / name, (folder / name).read_bytes()[:size])
            copy_whole(checkpoint, own / "checkpoints" / "last.ckpt")
        return super().experiment

    @rank_zero_only
    def log_hyperparams(
        self,
        params: dict[str, Any] | Namespace,
        metrics: dict[str, Any] | None = None,
        step: int | None = None,
    ) -> None:
        """Write the arguments for the HParams tab, with scalars that exist anyway as its metrics, and the charts."""
        from tensorboard.plugins.hparams import api_pb2
        from tensorboard.plugins.hparams.plugin_data_pb2 import SessionStartInfo
        from torch.utils.tensorboard.summary import custom_scalars

        kinds = {str: api_pb2.DATA_TYPE_STRING, bool: api_pb2.DATA_TYPE_BOOL, float: api_pb2.DATA_TYPE_FLOAT64}
        columns = [
            api_pb2.HParamInfo(name=name, type=kinds[kind], differs=name in COMPARED)
            for kind, names in COLUMNS.items()
            for name in names
        ]
        tags = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in METRIC_TAGS]
        self._write_hparams("experiment", api_pb2.Experiment(hparam_infos=columns, metric_infos=tags))
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
        self._write_hparams("session_start_info", start)
        charts = {title: ["Multiline", [tag]] for title, tag in CHARTS.items()}
        self._add(custom_scalars({"The run at a glance": charts}))

    def _write_hparams(self, kind: str, content: Any) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams.metadata import create_summary_metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        metadata = create_summary_metadata(HParamsPluginData(**{kind: content}))
        value = Summary.Value(tag=f"_hparams_/{kind}", metadata=metadata)
        self._add(Summary(value=[value]))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write scalars as one event, which costs a fraction of one event for each."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._has_metrics = True
        values = [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in metrics.items()]
        self._add(Summary(value=values), step)

    @rank_zero_only
    def log_text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Write a text for the Text tab."""
        from torch.utils.tensorboard.summary import text

        summary = text(tag, markdown)
        summary.value[0].tag = tag  # as it is
        summary.value[0].tensor.ClearField("tensor_shape")  # one text, not a table of texts
        self._add(summary, step)

    @rank_zero_only
    def log_picture(self, tag: str, png: bytes, width: int, height: int, step: int) -> None:
        """Write a picture for the Images tab."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._add(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def _add(self, summary: Any, step: int | None = None) -> None:
        with self._saying_so():
            self.experiment._get_file_writer().add_summary(summary, step)

    @rank_zero_only
    def save(self) -> None:
        """Write what is buffered; the arguments are in config.yaml already."""
        with self._saying_so():
            self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is buffered; a run that failed has said why, and leaves no folder if it had told nothing else."""
        with suppress(OSError) if status == "failed" else self._saying_so():
            super().finalize(status)
        folder = Path(self.log_dir)
        if status == "failed" and self._is_new and not self._has_metrics and folder.is_dir():
            files = list(folder.iterdir())
            if all(file.match("config.yaml") or file.match("events.out.tfevents.*") for file in files):
                shutil.rmtree(folder)
                for parent in (folder.parent, folder.parent.parent):
                    with suppress(OSError):  # it holds other runs
                        parent.rmdir()

    @contextmanager
    def _saying_so(self) -> Iterator[None]:
        """Turn what TensorBoard's thread could not write, and told nobody, into an error."""
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.log_dir}: the curves cannot be written ({error.strerror})") from error


def run_loggers(trainer: Trainer) -> list[RunLogger]:
    """The loggers of a fit that write into a run's folder."""
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]
