"""Models that are compiled, exported, traced, copied and pickled."""

import copy
import pickle

import lightning.pytorch as L
import pytest
import torch

import linreg_pl
from linreg_pl import Concise, Exact, Fused, InputError, Synthetic
from tests.lightning.own import MODELS, NOISE, model, norris, trainer, weights

pytestmark = NOISE


@pytest.fixture(scope="module", params=MODELS, ids=lambda kind: kind.__name__)
def fitted(request):
    """A model of a standardised table: look, but do not touch."""
    ours = model(request.param, 1)
    trainer(max_epochs=5).fit(ours, datamodule=norris())
    return ours


class TestOtherForms:
    @pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated", "ignore:.*to_torchscript. has been deprecated")
    @pytest.mark.filterwarnings("ignore:This property will be removed in 2.0.0")
    def test_torchscript(self, fitted, tmp_path):
        X = torch.tensor([[500.0], [0.2], [3.0]])
        with pytest.raises(InputError, match=r"can be traced, .* but not scripted"):
            fitted.to_torchscript()
        traced = fitted.to_torchscript(tmp_path / "model.pt", method="trace", example_inputs=X)
        assert torch.equal(traced(X[:2]), fitted(X[:2]))
        assert torch.equal(torch.jit.load(tmp_path / "model.pt")(X), fitted(X))

    def test_export(self, fitted):
        X = torch.tensor([[500.0], [0.2], [3.0]])
        rows = torch.export.Dim("rows")
        exported = torch.export.export(fitted, (X,), dynamic_shapes=({0: rows},)).module()
        assert torch.equal(exported(X), fitted(X))
        assert torch.equal(exported(X[:2]), fitted(X[:2]))

    @pytest.mark.parametrize("way", ["deepcopy", "pickle"])
    def test_copies(self, fitted, way):
        again = copy.deepcopy(fitted) if way == "deepcopy" else pickle.loads(pickle.dumps(fitted))
        X = torch.tensor([[500.0], [0.2]])
        assert torch.equal(again(X), fitted(X))
        assert torch.equal(trainer().predict(again, norris())[0], trainer().predict(fitted, norris())[0])
        trainer(max_epochs=3).fit(again, datamodule=norris())  # a model of its own
        assert torch.equal(again(X), fitted(X)) == isinstance(fitted, Exact)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")  # by torch's compiler
class TestCompiled:
    @pytest.mark.parametrize(("kind", "fits"), [*((L.Trainer, fits) for fits in MODELS), (linreg_pl.Trainer, Concise)])
    def test_fits_as_the_model_itself(self, kind, fits):
        plain, compiled = model(fits), model(fits)
        trainer(kind, 2).fit(plain, datamodule=Synthetic(num_train=50))
        wrapped = torch.compile(compiled, backend="eager")  # what is called is the same, without waiting for a compiler
        run = trainer(kind, 2)
        run.fit(wrapped, datamodule=Synthetic(num_train=50))
        assert weights(compiled) == pytest.approx(weights(plain), rel=1e-5)
        X, _ = Synthetic().raw("test")
        predicted = trainer(kind).predict(wrapped, Synthetic())[0]
        assert predicted.flatten().tolist() == pytest.approx(compiled(X).flatten().tolist(), rel=1e-4)

    def test_by_the_compiler(self):
        ours = torch.compile(Fused(2))
        trainer(max_epochs=3).fit(ours, datamodule=Synthetic())
        assert ours(torch.zeros(3, 2)).flatten().tolist() == pytest.approx([4.2] * 3, abs=0.01)
