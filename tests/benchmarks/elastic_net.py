"""The penalty chosen by cross-validation: beside the pass of Exact, and beside scikit-learn in memory.

    python tests/benchmarks/elastic_net.py [--rows 3000000] [--folder /tmp]

First, fits of a Parquet table of 20 columns by `Exact` and by `ElasticNet` (10 folds, 100 penalties), in turns in this
process, and `LassoCV` on the same rows as an array in memory. Then `LinearRegressor(penalty="cv")` beside `LassoCV` and
`RidgeCV` on arrays of 2 to 256 columns, in turns. Best of the repetitions.
"""

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from pathlib import Path

import lightning.pytorch as L
import numpy as np
from least_squares import read_matrix, write_table
from sklearn.linear_model import LassoCV, RidgeCV
from timing import best_in_turns

from linreg_pl import ElasticNet, Exact, LinearRegressor, Table
from linreg_pl.callbacks import EpochScores

IN_MEMORY = {2: 200_000, 8: 200_000, 32: 100_000, 128: 20_000, 256: 10_000}  # rows for each number of columns
PEERS = (("lasso", "LassoCV"), ("ridge", "RidgeCV"))
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def fit(path: Path, kind: type[L.LightningModule], *arguments: object) -> None:
    data = Table(str(path), "y")
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, callbacks=[EpochScores()], **QUIET)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.fit(kind(data.num_features, *arguments), data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--folder", type=Path, help="where the table goes; default: the folder for temporary files")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "t.parquet")
        write_table(path, options.rows, 20)
        fit(path, ElasticNet)  # compiles
        works = {"Exact": lambda: fit(path, Exact), "ElasticNet": lambda: fit(path, ElasticNet)}
        works["ridge"] = lambda: fit(path, ElasticNet, "cv", 0.0)
        took = best_in_turns(works, 5)
        X, y = (array.astype(np.float64) for array in read_matrix(path))  # LassoCV refuses its own float32 sums
        took |= best_in_turns({"LassoCV": lambda: LassoCV(cv=10).fit(X, y)}, 1)
        for name, value in took.items():
            print(f"{name:>12}: {value:6.2f} s, {value / took['Exact']:.2f} times Exact", flush=True)
    peers = "".join(f"{ours:>8} s{theirs:>9} s{'times':>7}" for ours, theirs in PEERS)
    print(f"{'columns':>8}{'rows':>10}{peers}")
    for columns, rows in IN_MEMORY.items():
        random = np.random.default_rng(0)
        X = random.normal(size=(rows, columns))
        y = X @ np.where(random.random(columns) < 0.5, random.normal(size=columns), 0) + 3 * random.normal(size=rows)
        ridge = LinearRegressor(penalty="cv", l1_ratio=0.0).fit(X, y)
        alphas = rows * ridge.path_[0]
        took = best_in_turns(
            {
                "lasso": lambda X=X, y=y: LinearRegressor(penalty="cv").fit(X, y),
                "LassoCV": lambda X=X, y=y: LassoCV(cv=10).fit(X, y),
                "ridge": lambda X=X, y=y: LinearRegressor(penalty="cv", l1_ratio=0.0).fit(X, y),
                "RidgeCV": lambda X=X, y=y, alphas=alphas: RidgeCV(alphas, cv=10).fit(X, y),
            },
            2,
        )
        cells = "".join(
            f"{took[ours]:>10.2f}{took[theirs]:>11.2f}{took[theirs] / took[ours]:>7.1f}" for ours, theirs in PEERS
        )
        print(f"{columns:>8}{rows:>10}{cells}", flush=True)


if __name__ == "__main__":
    main()
