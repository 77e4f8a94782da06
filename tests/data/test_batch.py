"""Rows as models get them."""

import copy
import pickle

import pyarrow as pa
import pytest
import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from lightning.pytorch.utilities import move_data_to_device
from torch.distributed.utils import _recursive_to

from linreg_pl.data.batch import Batch, Rows
from linreg_pl.functional.standardize import Scaling

X, Y, WEIGHT = torch.arange(6.0).reshape(3, 2), torch.arange(3.0).reshape(3, 1), torch.tensor([[0.5], [1.0], [1.5]])
SCALING = Scaling(torch.zeros(2).double(), torch.ones(2).double())


def whole(**changed):
    """A batch of which everything is known."""
    known = {
        "num_rows": 7,
        "rows": slice(4, 7),
        "scaling": SCALING,
        "ids": pa.RecordBatch.from_pydict({"id": ["a", "b", "c"]}),
    }
    return Batch(X, Y, WEIGHT, **(known | changed))


def assert_same_but_for_the_tensors(batch, other):
    assert isinstance(batch, Batch)
    assert (batch.num_rows, batch.rows, batch.ids) == (other.num_rows, other.rows, other.ids)
    for ours, theirs in zip(batch.scaling, other.scaling, strict=True):
        assert torch.equal(ours, theirs)


def test_it_unpacks_as_features_and_target():
    batch = Batch(X, Y)
    features, target = batch
    assert (features is X, target is Y, len(batch)) == (True, True, 2)
    assert (batch.X is X, batch.y is Y, batch.weight) == (True, True, None)


def test_it_unpacks_as_features_target_and_weight():
    features, target, weight = batch = Batch(X, Y, WEIGHT)
    assert (features is X, target is Y, weight is WEIGHT, len(batch)) == (True, True, True, 3)
    assert (batch.X is X, batch.y is Y, batch.weight is WEIGHT) == (True, True, True)


def test_by_default_it_is_the_whole_mini_batch_of_raw_rows():
    batch = Batch(X, Y)
    assert (batch.num_rows, batch.rows, batch.scaling, batch.ids) == (3, None, None, None)


def test_a_process_without_rows_still_knows_how_many_there_are():
    batch = Batch(X[:0], Y[:0], num_rows=5)
    assert (len(batch.y), batch.num_rows) == (0, 5)


@pytest.mark.parametrize("move", [Batch.to, move_data_to_device])
def test_its_tensors_move_to_a_device_and_the_rest_comes_along(move):
    batch = move(whole(), torch.device("meta"))
    assert [(column.device.type, column.shape) for column in batch] == [
        ("meta", column.shape) for column in (X, Y, WEIGHT)
    ]
    assert_same_but_for_the_tensors(batch, whole())


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("columns", [(X, Y), (X, Y, WEIGHT)], ids=["plain", "weighted"])
def test_lightning_converts_its_tensors_and_leaves_the_rest_alone(columns, precision):
    plugin = DoublePrecision() if precision == torch.float64 else HalfPrecision("bf16-true")
    before = whole(rows=torch.tensor([4, 5, 6])).with_columns(*columns)
    batch = plugin.convert_input(before)
    assert [column.dtype for column in batch] == [precision] * len(columns)
    assert all(torch.equal(column.float(), known) for column, known in zip(batch, columns, strict=True))
    assert (batch.num_rows, batch.scaling, batch.ids) == (7, SCALING, before.ids)  # the same, not converted
    assert batch.rows is before.rows
    assert [column.dtype for column in before] == [torch.float32] * len(columns)


def test_ddp_takes_it_as_it_is():
    (batch,) = _recursive_to(whole(), torch.device("cpu"), use_side_stream_for_tensor_copies=False)  # as DDP does
    assert_same_but_for_the_tensors(batch, whole())
    assert all(map(torch.equal, batch, (X, Y, WEIGHT)))


@pytest.mark.parametrize("copied", [lambda batch: pickle.loads(pickle.dumps(batch)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("columns", [(X, Y), (X, Y, WEIGHT)], ids=["plain", "weighted"])
def test_copies_are_whole(copied, columns):
    batch = whole().with_columns(*columns)
    same = copied(batch)
    assert len(same) == len(columns)
    assert all(map(torch.equal, same, columns))
    assert_same_but_for_the_tensors(same, batch)


def test_with_other_columns_the_rest_stays():
    batch = whole().with_columns(2 * X, 3 * Y, 4 * WEIGHT)
    assert all(map(torch.equal, batch, (2 * X, 3 * Y, 4 * WEIGHT)))
    assert_same_but_for_the_tensors(batch, whole())
    assert len(whole().with_columns(X, Y)) == 2  # no weight that was not given


def test_with_other_columns_something_else_may_change():
    batch = whole().with_columns(X, Y, num_rows=9, scaling=None)
    assert (batch.num_rows, batch.scaling, batch.rows) == (9, None, slice(4, 7))


class TestRows:
    @pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
    @pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([2, 0]), torch.tensor([2, 0], dtype=torch.int32)])
    def test_a_mini_batch_is_fetched_at_once(self, weight, rows):
        columns = [column for column in (X, Y, weight) if column is not None]
        data = Rows(torch.cat(columns, dim=1), X.shape[1], scaling=SCALING)
        batch = data[rows]
        index = rows if isinstance(rows, slice) else rows.long()
        assert len(batch) == len(columns)
        assert all(torch.equal(ours, column[index]) for ours, column in zip(batch, columns, strict=True))
        assert (batch.num_rows, batch.scaling is SCALING, len(data)) == (2, True, 3)
        assert batch.rows is rows
