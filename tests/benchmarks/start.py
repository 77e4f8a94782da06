"""Whole commands beside the bare import of torch and Lightning, best of some rounds taken in turns.

python tests/benchmarks/start.py [ROUNDS]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRAIN = [sys.executable, str(ROOT / "train.py")]
COMMANDS = {
    "import torch, lightning.pytorch": [sys.executable, "-c", "import torch, lightning.pytorch"],
    **{f"fit {name}": [*TRAIN, "fit", "--config", str(ROOT / f"configs/{name}.yaml")] for name in ("scratch", "fused")},
    "report": [*TRAIN, "report", "runs/scratch/version_0"],
    "--help": [*TRAIN, "--help"],
}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    best = dict.fromkeys(COMMANDS, float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, command in COMMANDS.items():
                start = time.perf_counter()
                subprocess.run(command, cwd=folder, check=True, capture_output=True)
                best[name] = min(best[name], time.perf_counter() - start)
    bare = next(iter(best.values()))
    for name, seconds in best.items():
        print(f"{name:32} {seconds:6.2f} s {seconds / bare:6.2f}")


if __name__ == "__main__":
    main()
