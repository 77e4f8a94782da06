import numpy as np
import pytest
import torch

from linreg_pl.data.sampling import permutation
from linreg_pl.data.synthetic import Synthetic
from linreg_pl.errors import InputError


def test_training_batches_are_the_rows_of_the_permutation():
    data = Synthetic(num_train=23, batch_size=10, seed=4)
    X, y = data.raw("train")
    order = permutation(23, seed=4, epoch=0)
    batches = list(data.train_dataloader())
    assert [batch.num_rows for batch in batches] == [10, 10, 3]
    for batch, rows in zip(batches, order.split(10), strict=True):
        assert torch.equal(batch.X, X[rows])
        assert torch.equal(batch.y, y[rows])
        assert torch.equal(batch.rows, rows)


@pytest.mark.parametrize("part", ["train", "val", "test", "predict"])
def test_blocks_hold_every_row_once_in_order(part):
    data = Synthetic(true_weight=[1.0] * 127, num_train=40_001, num_val=40_001, num_test=40_001)
    blocks = list(data.blocks(part))
    assert len(blocks) > 1
    assert torch.equal(torch.cat([block.X for block in blocks]), data.raw(part)[0])
    assert torch.equal(torch.cat([block.y for block in blocks]), data.raw(part)[1])


def test_loading_leaves_the_global_generator_alone():
    data = Synthetic()
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_there_need_be_no_validation_rows():
    assert Synthetic(num_val=0).val_dataloader() == []


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ("fit", "there are no train rows: set --data.num_train"),
        ("validate", "there are no val rows: set --data.num_val"),
        ("test", "there are no test rows: set --data.num_test"),
        ("predict", "there are no predict rows: set --data.num_test"),
    ],
)
def test_stage_without_rows_is_refused(stage, sentence):
    with pytest.raises(InputError) as error:
        Synthetic(num_train=0, num_val=0, num_test=0).setup(stage)
    assert str(error.value) == sentence


def test_state_of_other_columns_is_refused():
    state = Synthetic(true_weight=[1.0]).state_dict()
    said = r"made for the features \['x0'\], not \['x0', 'x1'\]; set --data.features, or use its data$"
    with pytest.raises(InputError, match=said):
        Synthetic().load_state_dict(state)


def test_moments_come_back_from_the_state():
    state = Synthetic().state_dict() | {"mean": [1.0, 2.0], "scale": [2.0, 4.0]}
    data = Synthetic(num_test=5)
    X = data.rows("test")[:].X.numpy()
    data.load_state_dict(state)
    np.testing.assert_allclose(data.rows("test")[:].X, (X - [1.0, 2.0]) / [2.0, 4.0], rtol=1e-6)
