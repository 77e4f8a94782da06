from concurrent.futures import ThreadPoolExecutor

import pytest
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from linreg_pl.runs.logger import COLUMNS, COMPARED, METRIC_TAGS, RunLogger


def test_runs_that_start_together_have_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: RunLogger(str(tmp_path), "run").version, range(24)))
    assert sorted(versions) == list(range(24))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {f"version_{number}" for number in range(24)}


def test_version_can_be_chosen(tmp_path):
    assert RunLogger(str(tmp_path), "run", version=7).log_dir == str(tmp_path / "run" / "version_7")


def test_other_processes_make_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert RunLogger(str(tmp_path), "run").version == 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def hparams(tmp_path):
    """Content of the HParams tab for some arguments."""

    def write(arguments):
        logger = RunLogger(str(tmp_path), "run")
        logger.log_hyperparams(arguments)
        logger.finalize("success")
        events = EventAccumulator(logger.log_dir)
        events.Reload()
        return {
            tag: HParamsPluginData.FromString(events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content)
            for tag in ("experiment", "session_start_info")
        }

    return write


def test_arguments_are_written_as_what_they_are(hparams):
    values = hparams(
        {"lr": 0.5, "steps": 3, "bias": False, "loss": "huber", "features": ["a", "b"], "none": None, "_hidden": 1}
    )
    written = values["session_start_info"].session_start_info.hparams
    assert written["lr"].number_value == 0.5
    assert written["steps"].number_value == 3
    assert written["bias"].bool_value is False
    assert written["bias"].HasField("bool_value")
    assert written["loss"].string_value == "huber"
    assert written["features"].string_value == "['a', 'b']"
    assert written["none"].string_value == "None"
    assert "_hidden" not in written


def test_columns_do_not_hang_on_the_model(hparams):
    """TensorBoard takes those of the first run for all runs."""
    infos = hparams({"ridge": 1.0})["experiment"].experiment.hparam_infos
    assert [info.name for info in infos] == [name for names in COLUMNS.values() for name in names]
    assert {info.name for info in infos if info.differs} == set(COMPARED)  # these come first


def test_metric_columns_are_the_scalars_of_a_run(hparams):
    infos = hparams({"lr": 0.5})["experiment"].experiment.metric_infos
    assert [info.name.tag for info in infos] == list(METRIC_TAGS)


def test_run_that_fails_at_once_leaves_no_folder_and_others_alone(tmp_path):
    kept, failed = RunLogger(str(tmp_path), "run"), RunLogger(str(tmp_path), "run")
    for logger in (kept, failed):
        logger.log_hyperparams({"lr": 0.1})
    kept.log_metrics({"train/loss": 1.0}, step=1)
    kept.finalize("failed")
    failed.finalize("failed")
    RunLogger(str(tmp_path), "run", version=0).finalize("failed")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["version_0"]
    assert len(list((tmp_path / "run/version_0").iterdir())) == 1


def test_run_that_fails_after_a_checkpoint_keeps_it(tmp_path):
    logger = RunLogger(str(tmp_path), "run")
    assert logger.log_dir
    (tmp_path / "run/version_0/checkpoints").mkdir()
    logger.finalize("failed")
    assert (tmp_path / "run/version_0/checkpoints").is_dir()
