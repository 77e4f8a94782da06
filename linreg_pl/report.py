"""The report of a run: written for programs, printed for people. Needs neither torch nor Lightning."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import quote as url_quote

from linreg_pl.console import DIM, GREEN, YELLOW, printable, styled
from linreg_pl.errors import InputError
from linreg_pl.files import csv_bytes, write_whole

Report = dict[str, Any]
SGD_COLUMNS = ("estimate", "optimum", "distance", "standard_error", "true", "error")
EXACT_COLUMNS = ("estimate", "standard_error", "ci_low", "ci_high", "t", "p", "true", "error")
MAX_MARKDOWN_ROWS = 200  # a browser shows more too slowly
FORMATS = {"distance": ".2g", "error": ".2g", "standard_error": ".3g", "t": ".4g", "p": ".2g"}


def write(report: Report, folder: Path) -> None:
    """Write ``report.json`` and ``coefficients.csv``, each whole or not at all.

    Numbers that are not finite become null: JSON has no others.

    Raises:
        InputError: they cannot be written.
    """
    report = _finite(report)
    text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_whole(folder / "report.json", text.encode())
    write_whole(folder / "coefficients.csv", csv_bytes(report["coefficients"]))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    verdict = _verdict(report)
    parts = [
        _missing(report),
        table(_coefficients(report)),
        styled(verdict, YELLOW if verdict.endswith("optimum") else GREEN),
        format_scores(report),
        _optimum(report),
        report.get("note", ""),
        report.get("net", ""),
        "\n".join(f"gradient of {name}: {_numbers(value)}" for name, value in report.get("gradients", {}).items()),
        "" if folder is None else _next_steps(report, folder),
    ]
    return "\n\n".join(filter(None, parts))


def format_markdown(report: Report) -> str:
    """The result for TensorBoard's Text tab."""
    first, last = map(_markdown_table, (_coefficients(report), _scores(report)))
    between = [_verdict(report), _optimum(report), report.get("note", "")]
    return "\n\n".join(filter(None, [first, *map(_escape, between), last]))


def _markdown_table(rows: list[list[str]]) -> str:
    first, *others = ["| " + " | ".join(map(_escape, row)) + " |" for row in rows[: MAX_MARKDOWN_ROWS + 1]]
    more = [f"\n{len(rows) - 1 - len(others)} more are in coefficients.csv"] if len(rows) - 1 > len(others) else []
    return "\n".join([first, "|" + " --- |" * len(rows[0]), *others, *more])


def _escape(text: str) -> str:
    """Text that is neither Markdown nor HTML, whatever a column is called: all but letters and digits as numbers."""
    return "".join(char if char.isalnum() or char in " .,-" else f"&#{ord(char)};" for char in text)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under their titles, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([styled(lines[0], DIM), *lines[1:]])


def _missing(report: Report) -> str:
    """Say which values were missing."""
    if "missing" not in report:
        return ""
    missing = report["missing"]
    counts = ", ".join(f"{count} in {printable(name)}" for name, count in missing["columns"].items())
    if missing["done"] == "mean":
        return f"missing values: {counts}; the mean of the training rows stands for them"
    return f"missing values: {counts}; {missing['rows_left_out']} rows left out"


def _coefficients(report: Report) -> list[list[str]]:
    """Rows of the table, its titles first."""
    coefficients = report["coefficients"]
    columns = EXACT_COLUMNS if report["model"] == "exact" else SGD_COLUMNS
    shown = [key for key in columns if any(key in row for row in coefficients)]
    level = f"{report.get('confidence_level', 0):.4g}"
    titles = {"ci_low": f"{level} from", "ci_high": "to"}
    rows = [["", *(titles.get(key, key.replace("_", " ")) for key in shown)]]
    for row in coefficients:
        rows.append([printable(row["name"]), *(_number(row, key, FORMATS.get(key, ".6g")) for key in shown)])
    return rows


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
        criteria = f", AIC {best['aic']:.6g}, BIC {best['bic']:.6g}" if "aic" in best else ""
        lines.append(f"adjusted r2 {best['adjusted_r2']:.6g}, F {best['f']:.6g} (p {best['f_p']:.2g}){criteria}")
    return "\n".join(lines)


def format_scores(report: Report) -> str:
    """Table of the scores of every part that has them."""
    return table(_scores(report))


def _scores(report: Report) -> list[list[str]]:
    parts = [part for part in ("train", "val", "test") if part in report]
    names = list(dict.fromkeys(name for part in parts for name in report[part]))
    rows = [["", *names]]
    for part in parts:
        rows.append([part, *(_number(report[part], name) for name in names)])
    return rows


def _numbers(values: list[float]) -> str:
    shown = ", ".join("nan" if value is None else f"{value:.4g}" for value in values[:8])
    return f"[{shown}{', …' if len(values) > 8 else ''}]"


def _next_steps(report: Report, folder: Path) -> str:
    run = printable(quote(str(folder)))
    command = f"python train.py {{}} --config {run}/config.yaml --ckpt_path {run}/checkpoints/last.ckpt"
    following = "validate" if "val" in report else "predict"
    place = folder.resolve() if ".." in folder.parts else folder
    return "\n".join(
        [
            f"this run  {run}",
            f"look      tensorboard --logdir {printable(quote(str(place.parent.parent)))} --host localhost",
            f"          {_link(report, place)}",
            f"again     python train.py report {run}",
            f"next      {command.format(following)}",
        ]
    )


def _link(report: Report, folder: Path) -> str:
    """Where TensorBoard shows this run alone: its charts, or the numbers if there were no steps to chart."""
    run = url_quote(f"^{re.escape(folder.relative_to(folder.parent.parent).as_posix())}$", safe="/$")
    tab = "text" if report["model"] == "exact" else "custom_scalars&_smoothingWeight=0"
    return f"http://localhost:6006/#{tab}&regexInput={run}"
