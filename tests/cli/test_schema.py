"""A checkpoint on other files: matched by name, checked by type, with the levels it was made with."""

import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import compute, csv, parquet

from tests.support.commands import CONFIGS, Outcome, in_process

TOWNS = ("Bonn", "Köln", "Ulm")
BARE = ("--model", "Exact", "--data", "Table", "--data.target", "price")
DAY = datetime.date(2020, 1, 1)


def houses(count=200, seed=0):
    """A price that follows exactly from what is in the table, so that predictions are known."""
    random = np.random.default_rng(seed)
    town, area, days = random.choice(3, count), random.normal(100, 20, count), random.integers(0, 700, count)
    price = 50.0 + 2 * area + 0.1 * days + np.array([0.0, 30.0, -20.0])[town]
    return pa.table(
        {
            "id": [f"h{number}" for number in range(count)],
            "town": [TOWNS[number] for number in town],
            "area": area,
            "sold": [DAY + datetime.timedelta(days=int(number)) for number in days],
            "price": price,
        }
    )


class Fit(NamedTuple):
    """A fit, whose checkpoint the tests use on other files."""

    outcome: Outcome

    @property
    def checkpoint(self):
        return self.outcome.run / "checkpoints/last.ckpt"

    def on(self, folder, command, table, *flags, config=True):
        """Run a command on another table."""
        if isinstance(table, pa.Table):
            parquet.write_table(table, folder / "new.parquet")
            flags = ("--data.path", folder / "new.parquet", *flags)
        named = ("--config", self.outcome.run / "config.yaml") if config else BARE
        flags = (*named, *flags, "--ckpt_path", self.checkpoint)
        if command == "predict":
            flags = (*flags, "--predictions", "out.parquet")
        return in_process(folder, command, *flags)

    def predictions(self, folder, *arguments, **options):
        self.on(folder, "predict", *arguments, **options).succeeded()
        return parquet.read_table(folder / "out.parquet")


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """A fit of houses: look, but do not touch."""
    folder = tmp_path_factory.mktemp("houses")
    parquet.write_table(houses(), folder / "houses.parquet")
    flags = ("--data", "Table", "--data.path", "houses.parquet", "--data.target", "price")
    flags += ("--data.features", "[town, area, sold]", "--data.categorical", "[town]", "--data.ids", "[id]")
    flags += ("--data.val_fraction", 0.2, "--data.test_fraction", 0.2)
    return Fit(in_process(folder, "fit", "--config", CONFIGS / "exact.yaml", *flags).succeeded())


def assert_predicts(table, expected):
    np.testing.assert_allclose(table["prediction"], expected["price"], rtol=1e-9)


def refused(outcome, sentence):
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.stderr == f"error: {sentence.format(new=outcome.cwd / 'new.parquet')}\n"
    assert not list(outcome.cwd.glob("out.*"))  # nothing that could be mistaken for predictions


def test_columns_are_matched_by_name(fit, tmp_path):
    new = houses(40, seed=1)
    other = new.select(["sold", "price", "area", "id", "town"]).add_column(0, "more", [list(range(40))])
    table = fit.predictions(tmp_path, other)
    assert_predicts(table, new)
    assert table["id"].to_pylist() == [f"h{number}" for number in range(40)]


def test_ids_of_several_files_become_text_where_they_differ(fit, tmp_path):
    (tmp_path / "new").mkdir()
    table = houses()
    for name, ids in (("a", range(len(table))), ("b", [f"A{row}" for row in range(len(table))]), ("c", None)):
        values = pa.nulls(len(table)) if ids is None else pa.array(ids)
        part = table.set_column(table.schema.get_field_index("id"), "id", values)
        parquet.write_table(part, tmp_path / f"new/{name}.parquet")
    found = fit.predictions(tmp_path, None, "--data.path", tmp_path / "new")
    assert found["id"].to_pylist()[:: len(table)] == ["0", "A0", None]


def test_predict_needs_no_target(fit, tmp_path):
    new = houses(40, seed=1)
    assert_predicts(fit.predictions(tmp_path, new.drop_columns(["price"])), new)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_scores_are_of_the_other_file(fit, tmp_path, command):
    new = houses(60, seed=1)
    off = new.set_column(4, "price", compute.add(new["price"], 3.0))
    part = {"validate": "val", "test": "test"}[command]
    outcome = fit.on(tmp_path, command, off, f"--data.{part}_fraction", 0.7).succeeded()
    assert fit.outcome.report[part]["mse"] == pytest.approx(9.0, rel=1e-9)
    assert "9" in outcome.stdout


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize(("name", "flag"), [("town", "categorical"), ("area", "features")])
def test_missing_column_is_named(fit, tmp_path, command, name, flag):
    new = houses(40).rename_columns({name: f"{name}s"})
    sentence = f"{{new}}: has no column '{name}' (--data.{flag}); did you mean '{name}s'?"
    refused(fit.on(tmp_path, command, new), sentence)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_scores_need_the_target(fit, tmp_path, command):
    outcome = fit.on(tmp_path, command, houses(40).drop_columns(["price"]))
    refused(outcome, "{new}: has no column 'price' (--data.target); it has 'id', 'town', 'area', 'sold'")


@pytest.fixture
def with_a_new_town():
    new = houses(40, seed=1)
    towns = new["town"].to_pylist()
    towns[7] = "Kiel"
    return new.set_column(1, "town", [towns])


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_unknown_level_is_refused(fit, tmp_path, with_a_new_town, command):
    outcome = fit.on(tmp_path, command, with_a_new_town)
    refused(
        outcome,
        "{new}: column 'town', row 8: 'Kiel' is not among the levels of the training rows ('Bonn', 'Köln', 'Ulm');"
        " --data.unknown ignore takes it for the reference level",
    )


def test_unknown_level_is_the_reference_if_so_asked(fit, tmp_path, with_a_new_town):
    table = fit.predictions(tmp_path, with_a_new_town, "--data.unknown", "ignore")
    area, days = with_a_new_town["area"][7].as_py(), (with_a_new_town["sold"][7].as_py() - DAY).days
    assert table["prediction"][7].as_py() == pytest.approx(50 + 2 * area + 0.1 * days, rel=1e-9)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_levels_are_those_of_the_checkpoint(fit, tmp_path, command):
    new = houses(90, seed=1)
    without = new.filter(compute.equal(new["town"], "Ulm"))  # neither the reference nor all others
    if command == "predict":
        assert_predicts(fit.predictions(tmp_path, without), without)
    else:
        fit.on(tmp_path, command, without).succeeded()
        part = {"validate": "val", "test": "test"}[command]
        assert fit.outcome.report[part]["mse"] == pytest.approx(0, abs=1e-18)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_numbers_that_became_dates_are_refused(fit, tmp_path, command):
    new = houses(40)
    dates = new.set_column(2, "area", new["sold"])
    refused(
        fit.on(tmp_path, command, dates),
        "{new}: column 'area' holds times, but the checkpoint was made with numbers",
    )


def test_dates_that_became_numbers_are_refused(fit, tmp_path):
    new = houses(40)
    outcome = fit.on(tmp_path, "predict", new.set_column(3, "sold", new["area"]))
    refused(outcome, "{new}: column 'sold' holds numbers, but the checkpoint was made with times")


def test_dates_of_another_unit_are_the_same_dates(fit, tmp_path):
    new = houses(40, seed=1)
    for unit in ("s", "ms", "us", "ns"):
        other = new.set_column(3, "sold", new["sold"].cast(pa.timestamp(unit)))
        assert_predicts(fit.predictions(tmp_path, other), new)


def test_another_format_is_the_same_table(fit, tmp_path):
    new = houses(40, seed=1)
    csv.write_csv(new, tmp_path / "new.csv")
    assert_predicts(fit.predictions(tmp_path, None, "--data.path", tmp_path / "new.csv"), new)


def test_features_and_levels_come_from_the_checkpoint_alone(fit, tmp_path):
    new = houses(40, seed=1)
    more = new.add_column(0, "aaa", [np.arange(40.0)]).drop_columns(["price", "id"])
    assert_predicts(fit.predictions(tmp_path, more, config=False), new)


def test_scores_with_the_checkpoint_alone(fit, tmp_path):
    new = houses(40, seed=1).add_column(0, "aaa", [np.arange(40.0)])
    outcome = fit.on(tmp_path, "test", new, "--data.test_fraction", 0.5, config=False)
    assert outcome.succeeded().stdout
    assert fit.outcome.report["test"]["mse"] == pytest.approx(0, abs=1e-18)


@pytest.mark.parametrize("config", [True, False])
def test_rows_with_missing_values_are_null_if_so_asked(fit, tmp_path, config):
    new = houses(40, seed=1)
    area = new["area"].to_pylist()
    area[7] = None
    some = new.set_column(2, "area", [area])
    table = fit.predictions(tmp_path, some, "--data.missing", "drop", config=config)
    assert [row for row in range(40) if table["prediction"][row].as_py() is None] == [7]
