"""Fits of a Parquet table larger than the memory they may use: peak memory, and speed beside merely reading it.

    python tests/benchmarks/table.py [--rows 20000000] [--folder /tmp]

Writes a table of 11 float32 columns (0.9 GB at 20,000,000 rows) and one twice as long. Each fit is a whole
process, `train.py fit`, whose peak resident memory the operating system reports. Speeds are slopes: rows of the
second table more than of the first, by the time more, so that start-up is excluded. For reading, pyarrow is used in
ways that are bounded in memory, with all cores.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

TRAIN = Path(__file__).parents[2] / "train.py"
FEATURES = 10
GROUP = 2**20


def write_table(path: Path, rows: int) -> None:
    names = [*(f"x{i}" for i in range(FEATURES)), "y"]
    rng = np.random.default_rng(0)
    weight = np.arange(1, FEATURES + 1, dtype=np.float32)
    with parquet.ParquetWriter(path, pa.schema([(name, pa.float32()) for name in names])) as file:
        for start in range(0, rows, GROUP):
            X = rng.standard_normal((FEATURES, min(GROUP, rows - start)), dtype=np.float32)
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


def seconds(work: Callable[[Path], None], path: Path) -> float:
    """Best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work(path)
        times.append(time.perf_counter() - start)
    return min(times)


def fit(path: Path, model: str) -> tuple[float, float]:
    """Seconds and peak resident MB of a whole process."""
    command = [sys.executable, str(TRAIN), "fit", "--model", model, "--data", "Table", "--data.path", str(path)]
    command += ["--data.target", "y", "--trainer.max_epochs", "1"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        if status:
            raise RuntimeError(f"{' '.join(command)}: status {status}")
        return time.perf_counter() - start, usage.ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--folder", type=Path, help="where the tables go; default: the folder for temporary files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        paths = {rows: Path(folder, f"{rows}.parquet") for rows in (options.rows, 2 * options.rows)}
        for rows, path in paths.items():
            write_table(path, rows)
            print(f"{rows} rows, {path.stat().st_size / 1e9:.2f} GB", flush=True)
        print(f"{'':>26}{'M rows/s':>10}{'peak MB':>10}{'peak MB, twice the rows':>26}")
        (few, short), (many, long) = paths.items()
        for name, work in {"decoding alone": decode, "reading into matrices": read}.items():
            print(f"{name:>26}{(many - few) / (seconds(work, long) - seconds(work, short)) / 1e6:>10.1f}", flush=True)
        for model in ("Exact", "Fused"):
            runs = [(fit(short, model), fit(long, model)) for _ in range(3)]
            took = [min(run[which][0] for run in runs) for which in (0, 1)]
            peaks = [max(run[which][1] for run in runs) for which in (0, 1)]
            speed = (many - few) / (took[1] - took[0])
            print(f"{model:>26}{speed / 1e6:>10.1f}{peaks[0]:>10.0f}{peaks[1]:>26.0f}", flush=True)


if __name__ == "__main__":
    main()
