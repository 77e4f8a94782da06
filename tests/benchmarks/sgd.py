"""Speed of SGD under the Trainer, beside its peers, in rows per second.

    python tests/benchmarks/sgd.py [--quick] [--steps] [--picture speed.png] [--before CHECKOUT]

Side by side in one run, on shuffled rows at batch size 10 unless said otherwise:

- fused, scratch, concise: `train.py fit` of this project as a whole process with its default logging; the
  slope of its time over the number of epochs, so start-up is excluded.
- notebook 1, notebook 2: the loops of the notebooks, without any Trainer.
- plain: a LightningModule as most would write it, with `self.log` and a shuffling DataLoader of rows.
- sklearn: SGDRegressor, compiled, which updates once per row; the same slope.
- copy: the rows as they pass when memory is merely copied.
- ddp: a step of `train.py fit` on two processes, beside a loop of torch's own DistributedDataParallel.

With ``--steps`` only steps are timed: Scratch, Concise and the notebooks, and ddp. With ``--before`` the `train.py`
of another checkout is timed in turns with this one.
"""

import argparse
import contextlib
import io
import random
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from linreg_pl.callbacks import Curves, EpochScores, Optimum, RunReport, Stability
from linreg_pl.data.synthetic import Synthetic
from linreg_pl.engine.quiet import quieten
from linreg_pl.functional.regression import linreg, squared_loss
from linreg_pl.models import Fused

ROOT = Path(__file__).parents[2]
ROWS = {2: 1_000_000, 8: 1_000_000, 32: 400_000, 256: 100_000}


def weights(columns: int) -> list[float]:
    return np.random.default_rng(0).standard_normal(columns).round(3).tolist()


def command_line(
    model: str, columns: int, rows: int, epochs: int, batch_size: int = 10, processes: int = 1, root: Path = ROOT
) -> float:
    """Seconds of a whole run."""
    config = {
        "model": {"class_path": f"linreg_pl.models.{model}", "init_args": {"lr": 0.5 / (columns + 10)}},
        "data": {
            "class_path": "linreg_pl.data.synthetic.Synthetic",
            "init_args": {"true_weight": weights(columns), "num_train": rows, "batch_size": batch_size},
        },
        "trainer": {"max_epochs": epochs},
    }
    if processes > 1:
        config["trainer"] |= {"accelerator": "cpu", "devices": processes, "strategy": "ddp"}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "speed.yaml").write_text(yaml.safe_dump(config))
        start = time.perf_counter()
        command = [sys.executable, str(root / "train.py"), "fit", "--config", "speed.yaml"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - start


def in_process(columns: int, rows: int, batch_size: int, epochs: int, data: dict[tuple[int, int], Synthetic]) -> float:
    """Seconds of a fit by fused with all callbacks, in this process."""
    module = copy(data.setdefault((columns, rows), Synthetic(weights(columns), num_train=rows)))  # without its orders
    module.batch_size = batch_size
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Optimum(), Stability(), EpochScores(), Curves(), RunReport()],
    )
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.fit(Fused(columns, lr=0.3 / (columns + 10)), module)
    return time.perf_counter() - start


def slope(seconds: Callable[[int], float], few: int, many: int, repeats: int = 3) -> float:
    """Seconds per epoch: the difference of the best of some runs each, taken in turns."""
    times = [(seconds(few), seconds(many)) for _ in range(repeats)]
    return (min(time for _, time in times) - min(time for time, _ in times)) / (many - few)


def scikit_learn(epochs: int, X: np.ndarray, y: np.ndarray) -> float:
    from sklearn.linear_model import SGDRegressor

    model = SGDRegressor(penalty=None, learning_rate="constant", eta0=0.01 / X.shape[1], tol=None, max_iter=epochs)
    start = time.perf_counter()
    model.fit(X, y)
    return time.perf_counter() - start


def notebook(X: torch.Tensor, y: torch.Tensor, steps: int, batch_size: int = 10) -> float:
    """Seconds per row of the first notebook's loop."""
    w = torch.normal(0, 0.01, size=(X.shape[1], 1), requires_grad=True)
    b = torch.zeros(1, requires_grad=True)
    start = time.perf_counter()
    indices = list(range(steps * batch_size))
    random.shuffle(indices)
    for step in range(steps):
        rows = torch.tensor(indices[step * batch_size : (step + 1) * batch_size])
        loss = squared_loss(linreg(X[rows], w, b), y[rows])
        loss.sum().backward()
        with torch.no_grad():
            for parameter in (w, b):
                parameter.sub_(0.01 * parameter.grad / batch_size)
                parameter.grad.zero_()
    return (time.perf_counter() - start) / (steps * batch_size)


def notebook_2(X: torch.Tensor, y: torch.Tensor, steps: int, batch_size: int = 10) -> float:
    """Seconds per row of the second notebook's loop, its DataLoader of rows included."""
    count = steps * batch_size
    loader = DataLoader(TensorDataset(X[:count], y[:count]), batch_size, shuffle=True)
    net, loss_function = nn.Sequential(nn.Linear(X.shape[1], 1)), nn.MSELoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
    start = time.perf_counter()
    for features, labels in loader:
        loss = loss_function(net(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - start) / count


class Plain(L.LightningModule):
    """What most would write first."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.net = nn.Linear(columns, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.001)


def plain(X: torch.Tensor, y: torch.Tensor, steps: int, batch_size: int = 10) -> float:
    """Seconds per row of a plain LightningModule."""
    count = steps * batch_size
    loader = DataLoader(TensorDataset(X[:count], y[:count]), batch_size, shuffle=True)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    start = time.perf_counter()
    trainer.fit(Plain(X.shape[1]), loader)
    return (time.perf_counter() - start) / count


def copy_time(X: torch.Tensor) -> float:
    """Seconds per row of a copy of the rows."""
    target = torch.empty_like(X)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(X)
        times.append(time.perf_counter() - start)
    return min(times) / len(X)


def per_row(model: str, columns: int, processes: int = 1, root: Path = ROOT, rows: int = 30_000) -> float:
    """Seconds per row of SGD one mini-batch at a time, from whole runs."""
    few, many = (1, 11) if processes == 1 else (1, 3)
    runs = partial(command_line, model, columns, rows, processes=processes, root=root)
    return slope(runs, few, many) / rows


def ddp_process(rank: int, processes: int, port: int, columns: int, steps: int, result: Any) -> None:
    """Train nn.Linear by torch's own DistributedDataParallel, five rows of each mini-batch in either process."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    seconds = ddp_loop(rank, processes, columns, steps)  # whose network must be gone before its process group
    if rank == 0:
        result.value = seconds
    dist.destroy_process_group()


def ddp_loop(rank: int, processes: int, columns: int, steps: int) -> float:
    """Seconds per row of the loop in this process."""
    X, y = torch.randn(steps * 10, columns), torch.randn(steps * 10, 1)
    net = nn.parallel.DistributedDataParallel(nn.Linear(columns, 1))
    optimizer, loss_function = torch.optim.SGD(net.parameters(), lr=0.001), nn.MSELoss()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    torch.distributed.barrier()
    start = time.perf_counter()
    for rows in order.split(10):
        mine = rows[rank::processes]
        optimizer.zero_grad()
        loss_function(net(X[mine]), y[mine]).backward()
        optimizer.step()
    return (time.perf_counter() - start) / len(y)


def plain_ddp(columns: int, steps: int, processes: int = 2) -> float:
    """Seconds per row of a plain loop under DistributedDataParallel."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = torch.multiprocessing.get_context("spawn").Value("d", 0.0)
    arguments = (processes, port, columns, steps, result)
    torch.multiprocessing.start_processes(ddp_process, arguments, processes, start_method="spawn")
    return float(result.value)


def compare_steps(checkouts: dict[str, Path], columns: int = 2) -> None:
    """Print microseconds per step at batch size 10, and times the plain loop of the same kind."""
    X, y = Synthetic(weights(columns), num_train=30_000).raw("train")
    loops = {
        "Scratch": ("notebook 1", min(notebook(X, y, 3000) for _ in range(5))),
        "Concise": ("notebook 2", min(notebook_2(X, y, 3000) for _ in range(5))),
        "Concise, 2 processes of ddp": ("plain ddp", min(plain_ddp(columns, 2000) for _ in range(3))),
        "Scratch, 2 processes of ddp": ("plain ddp", min(plain_ddp(columns, 2000) for _ in range(3))),
    }
    for name, (loop, base) in loops.items():
        model, _, several = name.partition(",")
        cells = [f"{name:<28} {loop} {base * 1e7:.0f} µs"]
        for checkout, root in checkouts.items():
            seconds = per_row(model, columns, 2 if several else 1, root, 10_000 if several else 30_000)
            cells.append(f"{checkout} {seconds * 1e7:.0f} µs ({seconds / base:.2f} times)")
        print("   ".join(cells), flush=True)


def compare(quick: bool) -> None:
    print("rows per second at batch size 10, shuffled; in brackets times scikit-learn")
    names = ("fused", "sklearn", "notebook 1", "scratch", "notebook 2", "concise", "plain", "copy")
    print(f"{'columns':>8}{'rows':>10}" + "".join(f"{name:>19}" for name in names))
    for columns, rows in ROWS.items():
        data = Synthetic(weights(columns), num_train=rows)
        X, y = data.raw("train")
        epochs = int((1e8 if quick else 4e8) / rows / (1 + columns / 8))
        steps = 3000
        seconds = {
            "fused": slope(lambda e, c=columns, r=rows: command_line("Fused", c, r, e), 1, 1 + epochs) / rows,
            "sklearn": slope(partial(scikit_learn, X=X.numpy(), y=y.numpy().ravel()), 1, 6) / rows,
            "notebook 1": min(notebook(X, y, steps) for _ in range(3)),
            "notebook 2": min(notebook_2(X, y, steps) for _ in range(3)),
            "plain": plain(X, y, steps),
            "copy": copy_time(X),
        }
        for model in ("Scratch", "Concise"):
            seconds[model.lower()] = per_row(model, columns)
        base = seconds["sklearn"]
        cells = "".join(f"{1 / seconds[name]:>10.3g} ({base / seconds[name]:>6.3g})" for name in names)
        print(f"{columns:>8}{rows:>10}{cells}", flush=True)


def scaling(quick: bool) -> dict[str, dict[int, float]]:
    """How the cost of a row grows with columns, batch size and rows."""
    limit = 1_000_000 if quick else 10_000_000
    data: dict[tuple[int, int], Synthetic] = {}
    sweeps = {
        "columns": [(p, min(1_000_000, 2**25 // p), 10, p) for p in (2, 4, 8, 16, 32, 64, 128, 256)],
        "batch size": [(8, 1_000_000, b, b) for b in (1, 4, 16, 64, 256, 1024, 4096)],
        "rows": [(8, n, 10, n) for n in (1000, 10_000, 100_000, 1_000_000, 10_000_000) if n <= limit],
    }
    result: dict[str, dict[int, float]] = {}
    for name, points in sweeps.items():
        result[name] = {}
        for columns, rows, batch_size, key in points:
            epochs = max(2, min(200, int(2e7 / rows / (1 + columns / 16))))
            per_epoch = slope(lambda e, a=(columns, rows, batch_size): in_process(*a, e, data), 1, 1 + epochs)
            result[name][key] = rows / per_epoch
        data.clear()
        print(f"fused, rows per second by {name}: " + ", ".join(f"{k}: {v:.3g}" for k, v in result[name].items()))
    return result


def draw(result: dict[str, dict[int, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.5), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(result), sharey=True), result.items(), strict=True):
        axes.loglog(list(points), list(points.values()), marker="o")
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("rows per second")
    figure.suptitle("fused SGD: 8 columns, 1,000,000 rows, batch size 10, but for what is varied")
    figure.savefig(path, dpi=120)
    print(f"picture in {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer epochs and rows")
    parser.add_argument("--picture", type=Path, help="where to draw how cost grows")
    parser.add_argument("--steps", action="store_true", help="time single steps only")
    parser.add_argument("--before", type=Path, help="another checkout, whose train.py is timed too")
    options = parser.parse_args()
    quieten()
    warnings.filterwarnings("ignore")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    compare_steps({"now": ROOT} | ({"before": options.before.resolve()} if options.before else {}))
    if options.steps:
        return
    compare(options.quick)
    result = scaling(options.quick)
    if options.picture:
        draw(result, options.picture)


if __name__ == "__main__":
    main()
