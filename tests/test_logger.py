from concurrent.futures import ThreadPoolExecutor

import pytest
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from linreg_pl.logger import METRIC_TAGS, RunLogger


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
    values = hparams({"lr": 0.5, "steps": 3, "loss": "huber", "features": ["a", "b"], "none": None, "_hidden": 1})
    written = values["session_start_info"].session_start_info.hparams
    assert written["lr"].number_value == 0.5
    assert written["steps"].number_value == 3
    assert written["loss"].string_value == "huber"
    assert written["features"].string_value == "['a', 'b']"
    assert written["none"].string_value == "None"
    assert "_hidden" not in written


def test_metric_columns_are_the_scalars_of_a_run(hparams):
    infos = hparams({"lr": 0.5})["experiment"].experiment.metric_infos
    assert [info.name.tag for info in infos] == list(METRIC_TAGS)
