"""Fits of a Parquet table larger than the memory they may use: peak memory, and speed beside merely reading it.

    python tests/benchmarks/table.py [--rows 20000000] [--folder /tmp]

Writes a table of 11 float32 columns (0.9 GB at 20,000,000 rows) and one twice as long. Each fit is a whole
process, `train.py fit`, whose peak resident memory the operating system reports. Reading is `pyarrow` in the
way that is bounded and fastest (see `linreg_pl/data/sources.py`).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
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


def read(path: Path) -> float:
    """Seconds to read the table, start-up excluded; best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            for _ in file.iter_batches(2**17):
                pass
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
        tiny = Path(folder, "tiny.parquet")
        write_table(tiny, 1000)
        for rows, path in paths.items():
            write_table(path, rows)
            print(f"{rows} rows, {path.stat().st_size / 1e9:.2f} GB", flush=True)
        seconds = {rows: read(path) for rows, path in paths.items()}
        print(f"{'':>10}{'rows':>12}{'peak MB':>10}{'M rows/s':>10}{'of reading':>12}")
        for rows in paths:
            print(f"{'reading':>10}{rows:>12}{'':>10}{rows / seconds[rows] / 1e6:>10.1f}{1:>12.2f}")
        for model in ("Exact", "Fused"):
            start_up = min(fit(tiny, model)[0] for _ in range(2))
            for rows, path in paths.items():
                took, peak = fit(path, model)
                speed = rows / (took - start_up)
                share = speed * seconds[rows] / rows
                print(f"{model:>10}{rows:>12}{peak:>10.0f}{speed / 1e6:>10.1f}{share:>12.2f}", flush=True)


if __name__ == "__main__":
    main()
