"""Fits of a Parquet table larger than the memory they may use: peak memory, and speed beside merely reading it.

    python tests/benchmarks/table.py [--rows 20000000] [--sgd] [--folder /tmp]

Writes a table of 11 float32 columns (0.9 GB at 20,000,000 rows) and one twice as long. Each fit is a whole
process, `train.py fit`, whose peak resident memory the operating system reports. Speeds are slopes: rows of the
second table more than of the first, by the time more, so that start-up is excluded. For reading, pyarrow is used in
ways that are bounded in memory, with all cores.

With ``--sgd`` instead: streamed SGD at 2, 11 and 64 columns beside a loop of pyarrow's bounded reading with
scikit-learn's ``partial_fit``, in turns and all in this process, timed by the lines that a fit prints. The first epoch
of `Fused`, with all that comes before it, is a slope over rows too. Of five turns, the median ratios are printed, with
the smallest and the largest. With ``--model.lr auto`` a fit reads its copy of the rows once more before the first step.
"""

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from sklearn.linear_model import SGDRegressor

TRAIN = Path(__file__).parents[2] / "train.py"
GROUP = 2**20
IN_MEMORY = 2**22  # rows that statsmodels is given
HC3 = ("Exact", "--covariance", "HC3")
STREAMED = {2: 80_000_000, 11: 24_000_000, 64: 8_000_000}  # rows for each number of columns, the target included


def write_table(path: Path, rows: int, features: int = 10) -> None:
    names = [*(f"x{i}" for i in range(features)), "y"]
    rng = np.random.default_rng(0)
    weight = np.arange(1, features + 1, dtype=np.float32)
    with parquet.ParquetWriter(path, pa.schema([(name, pa.float32()) for name in names])) as file:
        for start in range(0, rows, GROUP):
            X = rng.standard_normal((features, min(GROUP, rows - start)), dtype=np.float32)
            y = weight @ X + rng.standard_normal(X.shape[1], dtype=np.float32)
            file.write_table(pa.table([*X, y], names), row_group_size=GROUP)


def decode(path: Path) -> None:
    """Read the table and look at nothing."""
    with parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
        for _ in file.iter_batches(2**17):
            pass


def read(path: Path) -> None:
    """Read the table into matrices of numbers, as one must to compute with it."""
    with parquet.ParquetFile(path, pre_buffer=False) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group).combine_chunks()
            table.to_batches()[0].to_tensor(row_major=True).to_numpy()


def partial_fit(path: Path) -> None:
    """Fit by scikit-learn, a piece of the table at a time."""
    model = SGDRegressor(penalty=None, learning_rate="constant", eta0=1e-4)
    with parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
        for batch in file.iter_batches(2**17):
            *X, y = (column.to_numpy() for column in batch.columns)
            model.partial_fit(np.stack(X, axis=1), y)


def statsmodels_hc3(path: Path) -> float:
    """Rows a second of a fit by statsmodels to the first rows of a table, as many as it holds in some GB of memory."""
    import statsmodels.api as sm

    with parquet.ParquetFile(path) as file:
        *X, y = next(file.iter_batches(IN_MEMORY)).columns
    start = time.perf_counter()
    A = sm.add_constant(np.stack([column.to_numpy() for column in X], axis=1).astype(np.float64))
    result = sm.OLS(y.to_numpy().astype(np.float64), A).fit(cov_type="HC3")
    assert np.isfinite(result.bse).all()
    return len(y) / (time.perf_counter() - start)


def seconds(work: Callable[[Path], None], path: Path) -> float:
    """Best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work(path)
        times.append(time.perf_counter() - start)
    return min(times)


def command(path: Path, model: str, *flags: str) -> list[str]:
    """A fit of the table."""
    words = [sys.executable, str(TRAIN), "fit", "--model", model, "--data", "Table", "--data.path", str(path)]
    return [*words, "--data.target", "y", *flags]


def fit(path: Path, model: str, *flags: str) -> tuple[float, float]:
    """Seconds and peak resident MB of a whole process."""
    words = command(path, model, "--trainer.max_epochs", "1", *flags)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        if status:
            raise RuntimeError(f"{' '.join(words)}: status {status}")
        return time.perf_counter() - start, usage.ru_maxrss / 1000


class Clock(io.StringIO):
    """Output of a fit, of which it notes when each epoch ends."""

    def __init__(self) -> None:
        super().__init__()
        self.start = time.perf_counter()
        self.ends: list[float] = []

    def write(self, text: str) -> int:
        if text.startswith("epoch "):
            self.ends.append(time.perf_counter() - self.start)
        return len(text)


def epochs(path: Path, count: int, lr: str = "0.03") -> list[float]:
    """Seconds from the start of a fit by streamed SGD to the end of each of its epochs."""
    from linreg_pl.__main__ import main

    sys.argv = command(path, "Fused", "--data.memory", "64", "--trainer.max_epochs", str(count), "--model.lr", lr)[1:]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(Clock()) as clock:
        before = Path.cwd()
        os.chdir(folder)
        try:
            main()
        finally:
            os.chdir(before)
    return clock.ends


def compare_sgd(folder: Path) -> None:
    print(f"{'columns':>8}{'rows':>12}{'M rows/s:':>12}{'partial_fit':>12}", end="")
    print("".join(f"{name:>30}" for name in ("first epoch", "later epochs", "first epoch, lr auto")))
    for columns, rows in STREAMED.items():
        paths = {count: folder / f"{count}.parquet" for count in (rows // 4, rows)}
        for count, path in paths.items():
            write_table(path, count, columns - 1)
        few, many = paths.values()
        epochs(few, 1)  # compiles, and imports
        speeds = []
        for _ in range(5):
            start = time.perf_counter()
            partial_fit(many)
            peer = rows / (time.perf_counter() - start)
            first, *_, last = epochs(many, 5)
            slopes = [first - epochs(few, 1)[0], epochs(many, 1, "auto")[0] - epochs(few, 1, "auto")[0]]
            speeds.append([peer, 3 / 4 * rows / slopes[0], 4 * rows / (last - first), 3 / 4 * rows / slopes[1]])
        cells = ""
        for ours in (1, 2, 3):
            low, _, ratio, _, high = sorted(turn[ours] / turn[0] for turn in speeds)
            speed = statistics.median(turn[ours] for turn in speeds)
            cells += f"{speed / 1e6:>8.1f} ({ratio:>4.2f}, {low:>4.2f} to {high:>4.2f})"
        peer = statistics.median(turn[0] for turn in speeds)
        print(f"{columns:>8}{rows:>12}{peer / 1e6:>24.1f}{cells}", flush=True)
        for path in paths.values():
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--sgd", action="store_true", help="streamed SGD beside partial_fit")
    parser.add_argument("--folder", type=Path, help="where the tables go; default: the folder for temporary files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.sgd:
            compare_sgd(Path(folder))
            return
        paths = {rows: Path(folder, f"{rows}.parquet") for rows in (options.rows, 2 * options.rows)}
        for rows, path in paths.items():
            write_table(path, rows)
            print(f"{rows} rows, {path.stat().st_size / 1e9:.2f} GB", flush=True)
        print(f"{'':>26}{'M rows/s':>10}{'peak MB':>10}{'peak MB, twice the rows':>26}")
        (few, short), (many, long) = paths.items()
        for name, work in {"decoding alone": decode, "reading into matrices": read}.items():
            print(f"{name:>26}{(many - few) / (seconds(work, long) - seconds(work, short)) / 1e6:>10.1f}", flush=True)
        for model, *flags in (("Exact",), HC3, (*HC3, "--diagnostics", "true"), ("Fused",)):
            runs = [(fit(short, model, *flags), fit(long, model, *flags)) for _ in range(3)]
            took = [min(run[which][0] for run in runs) for which in (0, 1)]
            peaks = [max(run[which][1] for run in runs) for which in (0, 1)]
            speed = (many - few) / (took[1] - took[0])
            name = " ".join([model, *(flag.strip("-") for flag in flags[1:3])])
            print(f"{name:>26}{speed / 1e6:>10.1f}{peaks[0]:>10.0f}{peaks[1]:>26.0f}", flush=True)
        print(f"{'statsmodels HC3, in memory':>26}{statsmodels_hc3(short) / 1e6:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
