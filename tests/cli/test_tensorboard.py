"""What TensorBoard shows of a run."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tests.support.commands import SCRATCH

PER_STEP = ("train/batch_loss", "weight/x0", "weight/x1", "bias")
PER_EPOCH = ("train/loss", "train/mse", "train/r2", "val/loss", "val/mse", "val/r2")


def events_of(outcome):
    events = EventAccumulator(str(outcome.run), size_guidance={"scalars": 0})
    events.Reload()
    return events


def steps(events, tag):
    return [event.step for event in events.Scalars(tag)]


@pytest.fixture
def events(fitted):
    return events_of(fitted)


def hparams(events, tag):
    return HParamsPluginData.FromString(events.SummaryMetadata(tag).plugin_data.content)


@pytest.mark.parametrize("tag", PER_STEP)
def test_step_curves_have_every_tenth_step(events, tag):
    assert steps(events, tag) == list(range(10, 301, 10))


@pytest.mark.parametrize("tag", PER_EPOCH)
def test_epoch_curves_stand_at_the_step_that_ends_the_epoch(events, tag):
    assert steps(events, tag) == [100, 200, 300]


def test_curves_end_in_the_report(events, fitted):
    def last(tag):
        return events.Scalars(tag)[-1].value

    for name, estimate in fitted.coefficients.items():
        assert last("bias" if name == "bias" else f"weight/{name}") == pytest.approx(estimate, rel=1e-6)
    for part in ("train", "val"):
        for name in ("loss", "mse", "r2"):
            assert last(f"{part}/{name}") == pytest.approx(fitted.report[part][name], rel=1e-6)


def test_arguments_are_in_the_hparams_tab(events):
    values = hparams(events, "_hparams_/session_start_info").session_start_info.hparams
    assert values["lr"].number_value == 0.03
    assert values["bias"].bool_value is True
    assert not [key for key in values if key.startswith("_")]


def test_metric_columns_are_curves_that_exist(events):
    experiment = hparams(events, "_hparams_/experiment").experiment
    columns = {info.name.tag for info in experiment.metric_infos}
    assert {"train/loss", "train/mse", "val/mse", "val/r2"} <= columns <= set(events.Tags()["scalars"])
    assert "hp_metric" not in events.Tags()["scalars"]


def test_a_run_has_one_event_file(fitted):
    assert len(list(fitted.run.rglob("events.out.tfevents.*"))) == 1


def test_interval_of_the_step_curves_can_be_chosen(linreg):
    events = events_of(linreg("fit", "--config", SCRATCH, "--trainer.log_every_n_steps", 70).succeeded())
    assert steps(events, "bias") == [70, 140, 210, 280]
    assert steps(events, "train/mse") == [100, 200, 300]


def test_step_curves_can_be_left_out(linreg):
    events = events_of(linreg("fit", "--config", SCRATCH, "--trainer.log_every_n_steps", 0).succeeded())
    assert not set(PER_STEP) & set(events.Tags()["scalars"])
    assert set(PER_EPOCH) <= set(events.Tags()["scalars"])


def test_batch_loss_is_that_of_the_mini_batch(linreg):
    flags = ("--data.noise_std", 0, "--data.true_weight", "[0, 0]", "--model.init_std", 0)
    fit = linreg("fit", "--config", SCRATCH, *flags, "--trainer.max_steps", 1, "--trainer.log_every_n_steps", 1)
    (event,) = events_of(fit.succeeded()).Scalars("train/batch_loss")
    assert event.value == pytest.approx(4.2**2 / 2, rel=1e-6)  # every target is 4.2, every prediction 0


def test_sanity_check_leaves_no_point(linreg):
    events = events_of(linreg("fit", "--config", SCRATCH, "--trainer.num_sanity_val_steps", 2).succeeded())
    assert steps(events, "val/mse") == [100, 200, 300]


def test_validation_within_an_epoch_stands_at_its_step(linreg):
    events = events_of(linreg("fit", "--config", SCRATCH, "--trainer.val_check_interval", 50).succeeded())
    assert steps(events, "val/mse") == [50, 100, 150, 200, 250, 300]
