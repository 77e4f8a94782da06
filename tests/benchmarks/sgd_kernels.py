"""Rows per second of SGD: the notebook's loop, scikit-learn, and both ways of `sgd_steps`, side by side on one core.

    python tests/benchmarks/sgd_kernels.py [--rows 1000000 10000000] [--columns 2 8 32 256] [--batches 1 10 100 1000]

All go over the same rows: shuffled (the first columns), or as they lie in memory ("in order"). They take turns, and the
best of several runs counts, in seconds of the processor, so that other work on the machine matters less. scikit-learn
updates per row, whatever the batch, and shuffles for itself; it is given the better of float32 and float64. "scan"
gathers its rows, too. "+ randperm" is "loop" and the making of the order.
"""

import argparse
import itertools
import time
import warnings
from functools import partial

import torch
from sklearn.linear_model import SGDRegressor
from timing import best_in_turns

from linreg_pl.functional.fused.steps import sgd_steps
from linreg_pl.functional.regression import linreg, sgd, squared_loss

REPEATS = 4
best_seconds = partial(best_in_turns, repetitions=REPEATS, clock=time.process_time)


def notebook(X, y, order, batch_size, lr):
    w, b = torch.zeros(X.shape[1], 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    for rows in order.split(batch_size):
        loss = squared_loss(linreg(X[rows], w, b), y[rows]).sum()
        for param in (w, b):
            param.grad = None
        loss.backward()
        sgd([w, b], lr, len(rows))


def chunked(rows, order, batch_size, lr, way, num_steps):
    theta = torch.zeros(rows.shape[1])
    size = batch_size * num_steps
    if order is None:
        for part in rows.split(size):
            sgd_steps(theta, part, None, batch_size, lr, way=way)
    else:
        for part in order.split(size):
            sgd_steps(theta, rows, part, batch_size, lr, way=way)


def scikit_learn(X, y, lr, shuffle):
    """Rows per second, in the faster of float32 and float64."""

    def fit(dtype, epochs=2):
        model = SGDRegressor(
            penalty=None, learning_rate="constant", eta0=lr, tol=None, max_iter=epochs, shuffle=shuffle
        )
        rows, target = tables[dtype]
        model.fit(rows, target)

    tables = {dtype: (X.to(dtype).numpy(), y.to(dtype).flatten().numpy()) for dtype in (torch.float32, torch.float64)}
    return 2 * len(X) / min(best_seconds({dtype: lambda dtype=dtype: fit(dtype) for dtype in tables}).values())


def compare(num_rows, num_features, batches):
    """Print the lines of one table."""
    X = torch.randn(num_rows, num_features)
    y = X @ torch.randn(num_features, 1) + 4.2 + 0.01 * torch.randn(num_rows, 1)
    order, lr = torch.randperm(num_rows, dtype=torch.int32), 0.1 / num_features
    rows = torch.cat([X, y], dim=1)
    shuffled, in_order = (scikit_learn(X, y, lr, shuffle) for shuffle in (True, False))
    randperm = best_seconds({"it": lambda: torch.randperm(num_rows, dtype=torch.int32)})["it"] / num_rows
    for batch in batches:
        loop_steps, scan_steps = -(-(2**20) // batch), max(4, min(1024, 2**18 // (num_features + 2) ** 2))
        few, some = order[: 300 * batch], order[: scan_steps * batch * (8 if num_features <= 32 else 1)]
        contenders = {
            "notebook": (few, lambda few=few, batch=batch: notebook(X, y, few, batch, lr)),
            "scan": (some, partial(chunked, rows, some, batch, lr, "scan", scan_steps)),
            "loop": (order, partial(chunked, rows, order, batch, lr, "loop", loop_steps)),
            "in order": (order, partial(chunked, rows, None, batch, lr, "loop", loop_steps)),
        }
        best = best_seconds({name: run for name, (_, run) in contenders.items()})
        rate = {name: len(taken) / best[name] for name, (taken, _) in contenders.items()}
        together = 1 / (1 / rate["loop"] + randperm)
        rates = [rate["notebook"], shuffled, rate["scan"], rate["loop"], together, in_order, rate["in order"]]
        ratios = [rate["loop"] / rate["notebook"], rate["loop"] / shuffled, rate["in order"] / in_order]
        cells = [f"{num_rows:.0e}", str(num_features), str(batch), *(f"{value / 1e6:.3g}" for value in rates)]
        print("|", " | ".join(cells + [f"{ratio:.1f}" for ratio in ratios]), "|", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6, 10**7])
    parser.add_argument("--columns", type=int, nargs="+", default=[2, 8, 32, 256])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 10, 100, 1000])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # scikit-learn's, about convergence
    print("million rows/s; × notebook and × sklearn: of loop; × sklearn in order: of loop in order\n")
    names = ["rows", "columns", "batch", "notebook", "sklearn", "scan", "loop", "+ randperm"]
    names += ["sklearn in order", "loop in order", "× notebook", "× sklearn", "× sklearn in order"]
    print("|", " | ".join(names), "|")
    print("|" + "---:|" * len(names))
    for num_rows, num_features in itertools.product(arguments.rows, arguments.columns):
        if num_rows * num_features <= 5e8:  # 2 GB, and 4 for scikit-learn in float64
            compare(num_rows, num_features, arguments.batches)


if __name__ == "__main__":
    main()
