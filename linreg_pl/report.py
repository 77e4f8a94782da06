"""The report of a run: written for programs, printed for people. Needs neither torch nor Lightning."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from linreg_pl.errors import InputError

Report = dict[str, Any]
COLUMNS = {"estimate": "estimate", "true": "true", "error": "error"}


def write(report: Report, folder: Path) -> None:
    """Write ``report.json`` and ``coefficients.csv``, each whole or not at all."""
    _replace(folder / "report.json", json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    names = list(dict.fromkeys(key for row in report["coefficients"] for key in row))
    temporary = folder / "coefficients.csv.tmp"
    with temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(report["coefficients"])
    os.replace(temporary, folder / "coefficients.csv")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read(folder: Path) -> Report:
    """Read a run's report.

    Raises:
        InputError: the folder holds none, or one that cannot be read.
    """
    path = folder / "report.json"
    if not path.is_file():
        raise InputError(f"{folder}: holds no report.json; give the folder of a finished run, runs/NAME/version_N")
    try:
        report: Report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from error
    return report


def format_report(report: Report, folder: Path | None) -> str:
    """Text for the console.

    Args:
        report: what `write` writes.
        folder: where the run lies; None if nothing was written.
    """
    parts = [_coefficients(report["coefficients"]), format_scores(report)]
    if "net" in report:
        parts.append(report["net"])
    if "gradients" in report:
        parts.append("\n".join(f"gradient of {name}: {_numbers(value)}" for name, value in report["gradients"].items()))
    if folder is not None:
        parts.append(_next_steps(report, folder))
    return "\n\n".join(parts)


def printable(name: str) -> str:
    """Name without control characters, which could move a terminal's cursor."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _coefficients(coefficients: list[dict[str, Any]]) -> str:
    shown = {key: title for key, title in COLUMNS.items() if any(key in row for row in coefficients)}
    rows = [["", *shown.values()]]
    for row in coefficients:
        rows.append([printable(row["name"]), *(f"{row[key]:.6g}" if key in row else "" for key in shown)])
    return table(rows)


def format_scores(report: Report) -> str:
    """Table of the scores of every part that has them."""
    parts = [part for part in ("train", "val", "test") if part in report]
    names = list(dict.fromkeys(name for part in parts for name in report[part]))
    rows = [["", *names]]
    for part in parts:
        rows.append([part, *(f"{report[part][name]:.6g}" if name in report[part] else "" for name in names)])
    return table(rows)


def _numbers(values: list[float] | float) -> str:
    if isinstance(values, float):
        return f"{values:.4g}"
    shown = ", ".join(f"{value:.4g}" for value in values[:8])
    return f"[{shown}{', …' if len(values) > 8 else ''}]"


def _next_steps(report: Report, folder: Path) -> str:
    command = f"python train.py {{}} --config {folder}/config.yaml --ckpt_path {folder}/checkpoints/last.ckpt"
    following = "validate" if "val" in report else "predict"
    return "\n".join(
        [
            f"this run  {folder}",
            "look      tensorboard --logdir runs",
            f"again     python train.py report {folder}",
            f"next      {command.format(following)}",
        ]
    )
