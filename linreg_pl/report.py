"""The report of a run: written for programs, printed for people. Needs neither torch nor Lightning."""

import csv
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from linreg_pl.errors import InputError

Report = dict[str, Any]
SGD_COLUMNS = ("estimate", "optimum", "distance", "standard_error", "true", "error")
EXACT_COLUMNS = ("estimate", "standard_error", "ci_low", "ci_high", "t", "p", "true", "error")
FORMATS = {"distance": ".2g", "error": ".2g", "standard_error": ".3g", "t": ".4g", "p": ".2g"}


def write(report: Report, folder: Path) -> None:
    """Write ``report.json`` and ``coefficients.csv``, each whole or not at all.

    Numbers that are not finite become null: JSON has no others.
    """
    report = _finite(report)
    _replace(folder / "report.json", json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    names = list(dict.fromkeys(key for row in report["coefficients"] for key in row))
    temporary = folder / "coefficients.csv.tmp"
    with temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(report["coefficients"])
    os.replace(temporary, folder / "coefficients.csv")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    parts = [
        _missing(report),
        _coefficients(report),
        _verdict(report),
        format_scores(report),
        _optimum(report),
        report.get("note", ""),
    ]
    if "net" in report:
        parts.append(report["net"])
    if "gradients" in report:
        parts.append("\n".join(f"gradient of {name}: {_numbers(value)}" for name, value in report["gradients"].items()))
    if folder is not None:
        parts.append(_next_steps(report, folder))
    return "\n\n".join(filter(None, parts))


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


def _missing(report: Report) -> str:
    """Say which values were missing."""
    if "missing" not in report:
        return ""
    missing = report["missing"]
    counts = ", ".join(f"{count} in {printable(name)}" for name, count in missing["columns"].items())
    if missing["done"] == "mean":
        return f"missing values: {counts}; the mean of the training rows stands for them"
    return f"missing values: {counts}; {missing['rows_left_out']} rows left out"


def _coefficients(report: Report) -> str:
    coefficients = report["coefficients"]
    columns = EXACT_COLUMNS if report["model"] == "exact" else SGD_COLUMNS
    shown = [key for key in columns if any(key in row for row in coefficients)]
    level = f"{report.get('confidence_level', 0):.4g}"
    titles = {"ci_low": f"{level} from", "ci_high": "to"}
    rows = [["", *(titles.get(key, key.replace("_", " ")) for key in shown)]]
    for row in coefficients:
        rows.append([printable(row["name"]), *(_number(row, key, FORMATS.get(key, ".6g")) for key in shown)])
    return table(rows)


def _number(row: dict[str, Any], key: str, format_spec: str = ".6g") -> str:
    if key not in row:
        return ""
    return "nan" if row[key] is None else format(row[key], format_spec)


def _verdict(report: Report) -> str:
    """Say in words whether what SGD left undone matters."""
    rows = [row for row in report["coefficients"] if row.get("standard_error") and row.get("distance") is not None]
    errors = {row["name"]: abs(row["distance"]) / row["standard_error"] for row in rows}
    if report["model"] == "exact" or not errors or not math.isfinite(sum(errors.values())):
        return ""
    worst = max(errors, key=lambda name: errors[name])
    size = errors[worst]
    if size < 0.5:
        meaning = "little beside what the data leave open anyway"
    elif size < 1:
        meaning = "less than what the data leave open anyway"
    else:
        meaning = "train longer, or with a smaller lr, to come closer to the optimum"
    shown = f"{size:.2g}" if size < 10 else f"{size:.0f}"
    return f"SGD error is {shown} standard errors (of {printable(worst)}, the largest): {meaning}"


def _optimum(report: Report) -> str:
    """Say how good the best fit is."""
    if "optimum" not in report:
        return ""
    best = report["optimum"]
    lines = [
        f"noise floor {report['noise_floor']:.6g} (residual std {best['residual_std']:.6g},"
        f" {best['dof']} degrees of freedom), condition number {best['condition_number']:.3g}"
    ]
    if report["model"] == "exact" and "f" in best:
        lines.append(
            f"adjusted r2 {best['adjusted_r2']:.6g}, F {best['f']:.6g} (p {best['f_p']:.2g}),"
            f" AIC {best['aic']:.6g}, BIC {best['bic']:.6g}"
        )
    return "\n".join(lines)


def format_scores(report: Report) -> str:
    """Table of the scores of every part that has them."""
    parts = [part for part in ("train", "val", "test") if part in report]
    names = list(dict.fromkeys(name for part in parts for name in report[part]))
    rows = [["", *names]]
    for part in parts:
        rows.append([part, *(_number(report[part], name) for name in names)])
    return table(rows)


def _numbers(values: list[float] | float) -> str:
    if isinstance(values, float):
        return f"{values:.4g}"
    shown = ", ".join("nan" if value is None else f"{value:.4g}" for value in values[:8])
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
