"""Speed of the exact fit, from a Parquet file to coefficients with standard errors, beside its peers.

    python tests/benchmarks/least_squares.py [--rows-scale 1.0]

Every tool reads the same file with pyarrow and fits it, in this process, start-up excluded; the
best of three runs counts. Ratios are rows per second against scikit-learn's LinearRegression.
"""

import argparse
import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from linreg_pl.callbacks import EpochScores, RunReport
from linreg_pl.data.table import Table
from linreg_pl.engine.quiet import quieten
from linreg_pl.models import Exact

ROWS = {2: 20_000_000, 8: 8_000_000, 32: 2_000_000, 128: 500_000}


def write_table(path: Path, rows: int, columns: int) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, columns), dtype=np.float32)
    y = X.sum(axis=1) + rng.standard_normal(rows, dtype=np.float32)
    arrays = {f"x{i}": X[:, i] for i in range(columns)} | {"y": y}
    parquet.write_table(pa.table(arrays), path, compression="none", use_dictionary=False)


def ours(path: Path) -> np.ndarray:
    data = Table(str(path), "y", standardize=False)
    model = Exact(data.num_features)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[EpochScores(), RunReport()],
    )
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.fit(model, data)
    return model.w.detach().numpy().reshape(-1)


def read_matrix(path: Path) -> tuple[np.ndarray, np.ndarray]:
    table = parquet.read_table(path)
    X = np.column_stack([table.column(name).to_numpy() for name in table.column_names[:-1]])
    return X, table.column("y").to_numpy()


def scikit_learn(path: Path) -> np.ndarray:
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit(*read_matrix(path)).coef_


def numpy_lstsq(path: Path) -> np.ndarray:
    X, y = read_matrix(path)
    A = np.column_stack([np.ones(len(y)), X])
    return np.linalg.lstsq(A.astype(np.float64), y.astype(np.float64))[0][1:]


def statsmodels_ols(path: Path) -> np.ndarray:
    import statsmodels.api as sm

    X, y = read_matrix(path)
    return sm.OLS(y.astype(np.float64), sm.add_constant(X.astype(np.float64))).fit().params[1:]


def polars_sums(path: Path) -> np.ndarray:
    """Sums of products, streamed, and the normal equations, which lose the digits that QR keeps."""
    import polars as pl

    frame = pl.scan_parquet(path)
    names = frame.collect_schema().names()
    columns = [pl.lit(1.0), *(pl.col(name).cast(pl.Float64) for name in names)]
    pairs = [(i, j) for j in range(1, len(columns)) for i in range(j + 1)]
    sums = [(columns[i] * columns[j]).sum().alias(f"{i} {j}") for i, j in pairs]
    found = frame.select(pl.len().alias("rows"), *sums).collect(engine="streaming").row(0)
    moments = np.empty((len(columns), len(columns)))
    moments[0, 0] = found[0]
    for (i, j), value in zip(pairs, found[1:], strict=True):
        moments[i, j] = moments[j, i] = value
    return np.linalg.solve(moments[:-1, :-1], moments[:-1, -1])[1:]


def best_time(fit: Callable[[Path], np.ndarray], path: Path, repeats: int = 3) -> tuple[float, np.ndarray]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = fit(path)
        times.append(time.perf_counter() - start)
    return min(times), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows-scale", type=float, default=1.0, help="multiply the numbers of rows")
    scale = parser.parse_args().rows_scale
    quieten()
    warnings.filterwarnings("ignore")
    peers = {"exact": ours, "scikit-learn": scikit_learn, "numpy": numpy_lstsq, "statsmodels": statsmodels_ols}
    peers["polars sums"] = polars_sums
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; million rows per second (times scikit-learn)")
    print(f"{'columns':>8}{'rows':>12}" + "".join(f"{name:>20}" for name in peers))
    for columns, rows in ROWS.items():
        rows = int(rows * scale)  # noqa: PLW2901
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "table.parquet")
            write_table(path, rows, columns)
            results = {name: best_time(fit, path) for name, fit in peers.items()}
        base, truth = results["scikit-learn"][0], results["numpy"][1]
        cells = "".join(f"{rows / t / 1e6:>12.3g} ({base / t:>5.2f})" for t, _ in results.values())
        error = abs(results["exact"][1] - truth).max()
        assert error < 1e-6, error
        print(f"{columns:>8}{rows:>12}{cells}", flush=True)


if __name__ == "__main__":
    main()
