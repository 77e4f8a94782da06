"""Notebooks: fit, predict, interrupt a fit and go on; and the one that README links."""

import json
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.lightning.own import NORRIS, ROOT

CELLS = (
    """
import warnings

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from linreg_pl import Scratch, Synthetic, Table

data = Synthetic()
X, y = next(iter(data.train_dataloader()))
X.shape, y.shape
""",
    """
L.seed_everything(0)
model = Scratch(num_features=1, lr=0.4)
trainer = L.Trainer(max_epochs=25, accelerator="cpu")
trainer.fit(model, Table(PATH, "y", batch_size=64))
model(torch.tensor([[500.0]])).item()
""",
    """
trainer.predict(model, Table(PATH, "y"))[0][:2, 0].tolist()
""",
    """
trainer.validate(model, Table(PATH, "y", val_fraction=0.3))
""",
    """
class Interrupt(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 137:
            raise KeyboardInterrupt

def start():
    L.seed_everything(0)
    return Scratch(num_features=2)

def keep():
    return ModelCheckpoint("kept", "{step}", every_n_train_steps=50, save_top_k=-1)

L.Trainer(max_epochs=3, accelerator="cpu", enable_progress_bar=False, callbacks=[keep(), Interrupt()]).fit(
    start(), datamodule=Synthetic()
)
""",
    """
model = start()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    trainer = L.Trainer(max_epochs=3, accelerator="cpu", enable_progress_bar=False, callbacks=[keep()])
    trainer.fit(model, datamodule=Synthetic(), ckpt_path="kept/step=100.ckpt")
assert not [str(w.message) for w in caught if "resum" in str(w.message)]
whole = start()
L.Trainer(max_epochs=3, accelerator="cpu", enable_progress_bar=False).fit(whole, datamodule=Synthetic())
trainer.global_step, torch.equal(model.w, whole.w)
""",
)


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A kernel of the Python that runs, which need not be installed."""
    folder = tmp_path / "share" / "kernels" / "this"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "this", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    return "this"


def test_cells(kernel, tmp_path):
    first = f"PATH = {str(NORRIS)!r}"
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in (first, *CELLS)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    cells[5].metadata["tags"] = ["raises-exception"]  # where the fit is interrupted
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name=kernel, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    def shown(number, kind="execute_result"):
        return [output for output in cells[number].outputs if output.output_type == kind]

    def text(number):
        (output,) = shown(number)
        return output.data["text/plain"]

    def printed(number):
        """What was said, by print or by rich, through which Lightning's bar says it where rich is installed."""
        outputs = cells[number].outputs
        return "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)

    assert text(1) == "(torch.Size([10, 2]), torch.Size([10, 1]))"
    assert float(text(2)) == pytest.approx(500.796, abs=0.01)
    assert "epoch 25, loss" in printed(2)
    assert json.loads(text(3)) == pytest.approx([-0.0619, 337.85], abs=0.01)
    assert "val/mse" in text(4)
    assert shown(5, "error")[0].ename in ("KeyboardInterrupt", "SystemExit")
    assert text(6) == "(300, True)"
    assert {path.name for path in Path(tmp_path, "kept").iterdir()} >= {"step=100.ckpt", "step=300.ckpt"}


def test_the_notebook_of_the_repository(kernel, tmp_path):
    path = ROOT / ".github" / "linear_regression.ipynb"
    assert f"(.github/{path.name})" in (ROOT / "README.md").read_text(encoding="utf-8")
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    nbformat.validate(notebook)
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name=kernel, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    (said,) = [output.text for output in outputs if output.get("name") == "stderr"]
    assert said.startswith("\nDetected KeyboardInterrupt")
    text = "".join(output.get("text", "") for output in outputs)
    assert text.count("epoch 3, loss 0.0000") >= 3
    assert "interrupted" in text
    assert "estimate" in text  # the table of the report
    values = [output.data for output in outputs if "data" in output]
    assert sum("image/png" in value for value in values) == 5
    assert "(300, True)" in [value.get("text/plain") for value in values]
