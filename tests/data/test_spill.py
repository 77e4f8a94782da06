"""Rows in a file instead of in memory, against the same rows as arrays."""

import gc
import math
import os
import shutil
from math import sqrt
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from linreg_pl.data.spill import BLOCK_BYTES, Spill
from linreg_pl.data.table import Table
from linreg_pl.errors import InputError

SIZES = {
    # rows, features, batch_size, window_bytes
    "whole blocks, windows and mini-batches": (2**14, 1, 32, 2**15),
    "none of them whole": (10_007, 2, 30, 2**15),
    "windows without whole blocks": (10_007, 2, 31, 2**14),
    "mini-batch larger than a window": (10_007, 2, 5000, 2**14),
    "mini-batch larger than the table": (700, 2, 1000, 2**20),
    "one window": (10_007, 2, 30, 2**30),
    "one row a mini-batch": (2000, 2, 1, 2**13),
    "one row": (1, 2, 32, 2**20),
    "one row too many": (2049, 1, 2048, 2**14),
    "row as wide as a block": (301, BLOCK_BYTES // 4 - 1, 7, 2**16),
    "row wider than a block": (203, 3000, 10, 2**17),
}
COLUMNS = {  # random generator and number of rows to values
    "far from 0": lambda random, n: 1e4 + random.normal(size=n),
    "sorted": lambda random, n: np.arange(n) * 1e3,
    "constant at first": lambda random, n: np.where(np.arange(n) < 0.7 * n, -7e6, random.normal(size=n)),
    "small at first": lambda random, n: random.normal(size=n) * np.where(np.arange(n) < 0.7 * n, 1e-6, 1e6),
    "all 0 at first": lambda random, n: np.where(np.arange(n) < 0.7 * n, 0, random.normal(size=n)),
    "tiny": lambda random, n: 1e-30 * random.normal(size=n),
    "single": lambda random, n: random.normal(3, 2, size=n).astype(np.float32),
}
sizes = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


def spread(order, values, batch_size):
    """Spread of mini-batch means, in units of what an independent shuffle gives: 1 is as good.

    Args:
        order: rows in the order of an epoch, shape ``(n,)``.
        values: one number per row, shape ``(n,)``, in the order of the table.
        batch_size: rows in one mini-batch.
    """
    whole = len(order) // batch_size * batch_size
    means = values.double()[order[:whole]].reshape(-1, batch_size).mean(dim=1)
    expected = values.double().var() * (1 / batch_size - 1 / len(values))
    return float(means.std() / sqrt(expected))


@pytest.fixture
def spilled(tmp_path):
    """Rows in a file: column j of row i is i + j / 4 where there is room, the target is -i, the weight i + 1."""
    opened = []

    def make(num_rows, num_features=1, batch_size=32, window_bytes=2**15, weighted=False, seed=0, piece=777):
        path, widths = tmp_path / f"{len(opened)}.rows", (num_features, 1, 1) if weighted else (num_features, 1)
        spill = Spill(path, num_rows, widths, batch_size, seed, window_bytes)
        opened.append(spill)
        row = torch.arange(num_rows, dtype=torch.float32)[:, None]
        columns = (row + torch.arange(num_features) % 4 / 4, -row, row + 1)
        spill.write(torch.cat(columns[: len(widths)], dim=1).split(piece))
        return spill

    yield make
    for spill in opened:
        spill.close()


def epoch_of(spill, epoch=0, first=0):
    """Row numbers in their order, and the number of the first mini-batch of each window."""
    windows = list(spill.windows(epoch, first))
    order = [-window.rows[window.order].y[:, 0].long() for window in windows]
    return torch.cat(order).tolist(), [window.first for window in windows], [len(rows) for rows in order]


@sizes
@pytest.mark.parametrize("epoch", [0, 3])
def test_every_row_comes_once(spilled, size, epoch):
    order, _, _ = epoch_of(spilled(*size), epoch)
    assert sorted(order) == list(range(size[0]))


@sizes
def test_windows_are_whole_mini_batches(spilled, size):
    num_rows, _, batch_size, _ = size
    _, firsts, lengths = epoch_of(spilled(*size))
    assert all(length % batch_size == 0 for length in lengths[:-1])
    assert firsts == [sum(lengths[:number]) // batch_size for number in range(len(lengths))]
    assert sum(lengths) == num_rows


@sizes
def test_windows_are_about_as_large_as_asked_for(spilled, size):
    _, num_features, batch_size, window_bytes = size
    row_bytes = 4 * (num_features + 1)
    _, _, lengths = epoch_of(spilled(*size))
    assert max(lengths) * row_bytes <= max(window_bytes, batch_size * row_bytes)
    if len(lengths) > 1:
        assert lengths[0] * row_bytes > window_bytes / 2


@sizes
@pytest.mark.parametrize("weighted", [False, True])
def test_values_of_a_row_stay_together(spilled, size, weighted):
    for window in spilled(*size, weighted=weighted).windows(1, 0):
        X, y, weight = (batch := window.rows[:]).X, batch.y, batch.weight
        assert X.dtype == y.dtype == torch.float32
        assert torch.equal(X, -y + torch.arange(size[1]) % 4 / 4)
        assert weight is None if not weighted else torch.equal(weight, 1 - y)


@sizes
def test_starting_at_a_mini_batch_skips_those_before(spilled, size):
    num_rows, _, batch_size, _ = size
    spill = spilled(*size)
    whole, firsts, _ = epoch_of(spill, 2)
    steps = -(-num_rows // batch_size)
    for first in {0, 1, steps // 2, steps - 1} & set(range(steps)):
        order, found, _ = epoch_of(spill, 2, first)
        assert found == [number for number, after in zip(firsts, [*firsts[1:], steps], strict=True) if after > first]
        assert order == whole[found[0] * batch_size :]


def test_there_is_nothing_after_the_last_mini_batch(spilled):
    for window in spilled(1000, batch_size=10).windows(0, 100):
        assert len(window.order.split(10)[100 - window.first :]) == 0


@pytest.mark.parametrize("num_rows", [500, 5000], ids=["one block", "some blocks"])
def test_order_depends_on_seed_and_epoch_alone(spilled, num_rows):
    torch.manual_seed(1)
    orders = {key: epoch_of(spilled(num_rows, seed=key[0]), key[1])[0] for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    assert len(set(map(tuple, orders.values()))) == 4
    torch.manual_seed(2)
    state = torch.get_rng_state()
    spill = spilled(num_rows, piece=123)
    assert epoch_of(spill, 1)[0] == orders[0, 1]  # whatever came before
    assert epoch_of(spill, 0)[0] == orders[0, 0]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("piece", [1, 7, 1023, 1024, 1025, 3000])
def test_pieces_may_have_any_size(spilled, piece):
    assert epoch_of(spilled(3000, piece=piece))[0] == epoch_of(spilled(3000))[0]


class TestSpread:
    """How well rows are shuffled, by the worst case: a table in the order of the values."""

    ROWS, BATCH = 2**20, 32

    @pytest.fixture
    def values(self):
        return torch.arange(self.ROWS, dtype=torch.float64)

    def test_an_independent_shuffle_has_1(self, values):
        order = torch.from_numpy(np.random.default_rng(0).permutation(self.ROWS))
        assert spread(order, values, self.BATCH) == pytest.approx(1, abs=0.02)

    def test_a_sorted_table_has_more(self, values):
        # Means of mini-batches are as far apart as the values: the spread is the square root of their size.
        assert spread(values.long(), values, self.BATCH) == pytest.approx(self.BATCH**0.5, rel=1e-3)

    def test_it_is_measured_in_units_of_numpys(self):
        values, order = np.random.default_rng(0).gamma(1, size=1003), np.random.default_rng(1).permutation(1003)
        means = values[order][:1000].reshape(100, 10).mean(axis=1)
        shuffles = np.stack([np.random.default_rng(seed).permutation(values)[:10] for seed in range(20_000)])
        expected = means.std(ddof=1) / shuffles.mean(axis=1).std(ddof=1)
        assert spread(torch.from_numpy(order), torch.from_numpy(values), 10) == pytest.approx(expected, rel=0.03)

    @pytest.mark.parametrize("epoch", [0, 1])
    def test_windows_of_some_hundred_blocks_are_a_fair_sample(self, spilled, values, epoch):
        block = BLOCK_BYTES // 8
        order, _, lengths = epoch_of(spilled(self.ROWS, 1, self.BATCH, 250 * BLOCK_BYTES, piece=2**16), epoch)
        assert lengths == [250 * block, 250 * block, 12 * block]
        assert 0.9 < spread(torch.tensor(order), values, self.BATCH) < 1.1

    @pytest.mark.parametrize("blocks", [2, 8, 32, 128])
    def test_worst_case_is_foretold(self, spilled, values, blocks):
        spill = spilled(self.ROWS, 1, self.BATCH, blocks * BLOCK_BYTES, piece=2**16)
        foretold = (1 + self.BATCH / blocks) ** 0.5
        assert spill.worst_spread == pytest.approx(foretold)
        measured = spread(torch.tensor(epoch_of(spill)[0]), values, self.BATCH)
        assert 0.9 * foretold < measured < 1.1 * foretold


class TestFile:
    @pytest.fixture
    def data(self, tmp_path, monkeypatch):
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        random = np.random.default_rng(0)
        x, y = random.normal(size=(2, 300_000)).astype(np.float32)
        parquet.write_table(pa.table({"x": x, "y": y, "w": np.abs(y)}), tmp_path / "t.parquet", row_group_size=50_000)
        data = Table(str(tmp_path / "t.parquet"), target="y", features=["x"], weights="w", memory=1)
        assert data.streamed("train")
        data.setup("fit")
        return data

    @pytest.fixture
    def folder(self, data, tmp_path):
        return tmp_path / "temporary"

    def test_its_rows_are_those_kept_in_memory(self, data):
        streamed = list(data.train_dataloader())
        assert [batch.num_rows for batch in streamed] == [32] * (300_000 // 32)
        in_memory = Table(data.hparams.path, target="y", features=["x"], weights="w", memory=1000)
        in_memory.setup("fit")
        in_memory = list(in_memory.train_dataloader())
        assert len(streamed) == len(in_memory)
        tables = []
        for batches in (streamed, in_memory):
            rows = np.concatenate([torch.cat([batch.X, batch.y, batch.weight], dim=1) for batch in batches])
            tables.append(rows[np.lexsort(rows.T)])
        np.testing.assert_allclose(*tables, rtol=0, atol=1e-6)  # standardised in two steps
        data.windows().close()

    def test_it_has_no_name_and_its_space_is_freed(self, data, folder):
        free = os.statvfs(folder).f_bfree
        data.train_dataloader()
        file = data.windows().file
        assert list(folder.iterdir()) == []
        assert (os.fstat(file).st_nlink, os.fstat(file).st_size) == (0, 300_000 * 12)
        data.windows().close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file)
        assert os.statvfs(folder).f_bfree >= free - 2**12  # others may write too

    def test_too_little_room_is_said(self, data, folder, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
        with pytest.raises(InputError) as error:
            data.windows()
        assert str(error.value) == (
            f"{folder}: the training rows need 0.0034 GiB while the fit lasts, and 0.00098 GiB are left;"
            " set TMPDIR to a larger disk, or --data.memory above 3"
        )

    def test_bad_row_leaves_nothing(self, data, folder, monkeypatch):
        def bad(*_):
            raise InputError("bad row")

        monkeypatch.setattr(data, "to_float32", bad)
        with pytest.raises(InputError, match="bad row"):
            data.windows()
        assert list(folder.iterdir()) == []

    def test_a_kill_while_it_is_written_leaves_nothing(self, data, folder, monkeypatch):
        seen, names = data.to_float32, []

        def look(*batch):
            names.append(list(folder.iterdir()))
            return seen(*batch)

        monkeypatch.setattr(data, "to_float32", look)
        data.windows()
        assert len(names) > 1
        assert not any(names)

    def test_too_little_room_leaves_nothing(self, data, folder, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
        with pytest.raises(InputError):
            data.windows()
        assert list(folder.iterdir()) == []

    def test_its_space_is_freed_when_nobody_needs_it(self, tmp_path):
        spill = Spill(tmp_path / "t.rows", 10, (1, 1), 2, 0, 2**15)
        file = spill.file
        del spill
        gc.collect()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.close(file)


class TestOneReading:
    """A fit reads the table once: it finds the factor while it copies the rows, which are scaled when they are read."""

    @pytest.fixture(params=["float64", "float32"])
    def path(self, request, tmp_path):
        random, n = np.random.default_rng(5), 200_000
        columns = {name: make(random, n) for name, make in COLUMNS.items()}
        columns["y"], columns["w"] = random.normal(size=n), random.uniform(0.1, 9, size=n)
        if request.param == "float32":
            columns = {name: column.astype(np.float32) for name, column in columns.items()}
        path = tmp_path / "t.parquet"
        parquet.write_table(pa.table(columns), path, row_group_size=50_000)
        return path

    @pytest.fixture(params=["weighted", "unweighted"])
    def both(self, request, path):
        """The same table, streamed and in memory."""
        weights = "w" if request.param == "weighted" else None
        tables = [Table(str(path), "y", features=list(COLUMNS), weights=weights, memory=memory) for memory in (1, 1000)]
        for table in tables:
            table.setup("fit")
        yield tables
        tables[0].windows().close()

    def test_rows_are_standardised_as_in_memory(self, both):
        streamed, in_memory = (
            torch.cat([make().X for make in table.windows().in_order()]) for table in both if table.scaling
        )
        np.testing.assert_allclose(streamed, in_memory, rtol=1e-5, atol=1e-6)

    def test_factor_is_that_of_a_reading_of_its_own(self, both):
        streamed, in_memory = (table.find_factor() for table in both)
        np.testing.assert_allclose(streamed.abs(), in_memory.abs(), rtol=1e-8, atol=1e-12 * in_memory.abs().max())

    def test_curvature_is_that_of_the_rows_in_memory(self, both):
        (mean, square), (expected, expected_square) = (
            table.curvature.of_mini_batches(32, True) for table in both if table.scaling
        )
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(square, expected_square, rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize(("features", "times"), [(["single"], 1.2), (list(COLUMNS), math.inf)], ids=str)
    @pytest.mark.parametrize("weights", [None, "w"])
    def test_no_curvature_of_a_row_is_above_its_bound(self, path, features, times, weights):
        table = Table(str(path), "y", features=features, weights=weights, memory=1)
        table.setup("fit")
        batches = [make() for make in table.windows().in_order()]
        lengths = [batch.X.double().square().sum(dim=1, keepdim=True) + 1 for batch in batches]
        factors = [1 if batch.weight is None else batch.weight for batch in batches]
        actual = max(float((v * length).max()) for v, length in zip(factors, lengths, strict=True))
        assert actual <= table.windows().greatest_curvature * (1 + 1e-6) < times * actual
        table.windows().close()

    @pytest.mark.parametrize("standardize", [True, False])
    @pytest.mark.parametrize("how", ["missing", "weights"])
    def test_blocks_of_which_no_row_is_left(self, tmp_path, how, standardize):
        random, n = np.random.default_rng(6), 400_000
        columns = {name: random.normal(size=n) for name in ("x", "y")} | {"w": np.ones(n)}
        columns["x" if how == "missing" else "w"][50_000:150_000] = np.nan if how == "missing" else 0
        path = tmp_path / "t.parquet"
        parquet.write_table(pa.table(columns), path, row_group_size=25_000)
        flags = {"missing": "drop"} if how == "missing" else {"weights": "w"}
        table = Table(str(path), "y", features=["x"], memory=1, standardize=standardize, **flags)
        table.setup("fit")
        assert table.streamed("train")
        rows = torch.cat([make().X for make in table.windows().in_order()])
        assert len(rows) == 300_000
        length = float(rows.double().square().max()) + 1
        assert length <= table.windows().greatest_curvature * (1 + 1e-6) < 1.2 * length
        table.windows().close()

    def test_the_table_is_read_once(self, path, monkeypatch):
        table, readings = Table(str(path), "y", features=["single"], memory=1), []
        pieces = table.source.pieces
        monkeypatch.setattr(table.source, "pieces", lambda *names: readings.append(names) or pieces(*names))
        table.setup("fit")
        assert table.streamed("train")
        table.find_factor()
        list(table.train_dataloader())
        assert table.scaling is not None
        assert table.curvature.num_rows == 200_000
        assert len(readings) == 1
        table.windows().close()

    def test_files_of_other_precision_keep_their_digits(self, tmp_path):
        random = np.random.default_rng(2)
        x, y = 1e9 + random.normal(size=200_000), random.normal(size=200_000)
        (tmp_path / "parts").mkdir()
        for number, dtype in enumerate((np.float32, np.float64)):  # the first file tells the rough scaling
            some = slice(number * 100_000, (number + 1) * 100_000)
            columns = {"x": x[some].astype(dtype), "y": y[some].astype(dtype)}
            parquet.write_table(pa.table(columns), tmp_path / "parts" / f"{number}.parquet", row_group_size=20_000)
        tables = [Table(str(tmp_path / "parts"), "y", memory=memory) for memory in (1, 1000)]
        for table in tables:
            table.setup("fit")
        streamed, in_memory = (
            torch.cat([make().X for make in table.windows().in_order()]) for table in tables if table.scaling
        )
        np.testing.assert_allclose(streamed[100_000:], in_memory[100_000:], rtol=1e-5, atol=1e-5)
        tables[0].windows().close()

    def test_the_optimum_is_not_reported_if_it_is_not_wanted(self, path):
        table = Table(str(path), "y", features=["single"], memory=1, standardize=False)
        table.setup("fit")
        list(table.train_dataloader())
        assert table.summary.factor is None
        table.find_factor()
        assert table.summary.factor is not None
        table.windows().close()
