"""A run's report: written for programs, printed for people. Imports neither torch nor numpy."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import quote as url_quote

from linreg_pl.errors import DIM, GREEN, YELLOW, InputError, as_run, printable, styled
from linreg_pl.files import atomic_write, csv_bytes
from linreg_pl.runs.columns import COLUMNS
from linreg_pl.runs.diagnosis import diagnosis

Report = dict[str, Any]
MAX_GAP = 1e-6
SHOWN = 12  # names of columns
MAX_MARKDOWN_ROWS = 200  # a browser shows more too slowly


def write(report: Report, folder: Path) -> None:
    """Write ``report.json`` and ``coefficients.csv`` atomically; infinities and NaN, which JSON lacks, become null.

    Raises:
        InputError: they cannot be written.
    """
    report = json.loads(json.dumps(report), parse_constant=lambda _: None)
    text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    atomic_write(folder / "report.json", text.encode())
    order = ("name", *(column.name for column in COLUMNS))
    rows = [{key: row[key] for key in order if key in row} | row for row in report["coefficients"]]
    atomic_write(folder / "coefficients.csv", csv_bytes(rows))


def read(folder: Path) -> Report:
    """Read a run's report.

    Raises:
        InputError: the folder holds no report, or it is not JSON.
    """
    path = folder / "report.json"
    if not path.is_file():
        raise InputError(f"{folder}: holds no report.json; give the folder of a finished run, runs/NAME/version_N")
    try:
        report: Report = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from error
    rows = report.get("coefficients") if isinstance(report, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "name" in row for row in rows):
        raise InputError(f"{path}: is not a report of this program")
    return report


def update(folder: Path, scores: Report) -> None:
    """Add scores to a run's report.

    Raises:
        InputError: the report cannot be read or written.
    """
    try:
        write(read(folder) | scores, folder)
    except (TypeError, RecursionError) as error:
        raise InputError(f"{folder}/report.json: is not a report of this program") from error


def show(folder: Path) -> str:
    """Read a run's report and format it, without the control characters that its texts may hold.

    Raises:
        InputError: the folder holds no report, or it is damaged.
    """
    report = read(folder)
    try:
        return format_report(_printable(report), folder)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{folder}/report.json: is not a report of this program") from error


def _printable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return "\n".join(map(printable, value.split("\n"))) if isinstance(value, str) else value


def format_report(report: Report, folder: Path | None) -> str:
    """Format a report for the console, with what to type next if it was written to a folder."""
    parts = [
        report.get("failure", ""),
        *_rows_and_columns(report),
        table(_coefficients(report)),
        styled(_arrival(report), GREEN if (report.get("joint_distance") or 0) <= 1 else YELLOW),
        format_scores(report),
        _penalty(report),
        _optimum(report),
        diagnosis(report),
        report.get("note", ""),
        report.get("net", ""),
        "\n".join(f"gradient of {name}: {_vector(value)}" for name, value in report.get("gradients", {}).items()),
        "" if folder is None else _next_steps(report, folder),
    ]
    return "\n\n".join(filter(None, parts))


def format_markdown(report: Report) -> str:
    """Format a report for TensorBoard's Text tab."""
    between = [_arrival(report), _penalty(report), _optimum(report), *diagnosis(report).splitlines()]
    between = [_escape(text) for text in (*between, report.get("note", "")) if text]
    return "\n\n".join([_markdown_table(_coefficients(report)), *between, _markdown_table(_scores(report))])


def _markdown_table(rows: list[list[str]]) -> str:
    first, *others = ["| " + " | ".join(map(_escape, row)) + " |" for row in rows[: MAX_MARKDOWN_ROWS + 1]]
    more = [f"\n{len(rows) - 1 - len(others)} more are in coefficients.csv"] if len(rows) - 1 > len(others) else []
    return "\n".join([first, "|" + " --- |" * len(rows[0]), *others, *more])


def _escape(text: str) -> str:
    """Replace what Markdown or HTML could interpret, e.g. in the name of a column, by character references."""
    return "".join(char if char.isalnum() or char in " .,-" else f"&#{ord(char)};" for char in text)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align rows, titles first, into a text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join([styled(lines[0], DIM), *lines[1:]])


def _is_sgd(report: Report) -> bool:
    """Whether the model was fitted by SGD; reports of models that are solved exactly have no learning rate."""
    return "lr" in report


def _rows_and_columns(report: Report) -> Iterator[str]:
    """Say how many there were, what was fitted in which units, and what was done about missing values."""
    if "num_train" in report:
        plural = "" if report["num_features"] == 1 else "s"
        yield f"{report['num_train']:,} training rows, {report['num_features']:,} column{plural}"
    if "formula" in report:
        units = f"; the target, predictions and errors are in units of {printable(report['target'])}"
        yield f"formula: {printable(report['formula'])}{'' if report['target'].isidentifier() else units}"
    if "missing" in report:
        missing, done = report["missing"], "the mean of the training rows stands for them"
        if missing["done"] != "mean":
            done = f"{missing['rows_left_out']} rows left out"
        counts = ", ".join(f"{count} in {printable(name)}" for name, count in missing["columns"].items())
        yield f"missing values: {counts}; {done}"


def _coefficients(report: Report) -> list[list[str]]:
    """Rows of the coefficient table, its headings first."""
    rows, kinds = report["coefficients"], ("all", "sgd" if _is_sgd(report) else "exact")
    columns = [column for column in COLUMNS if column.shown_for in kinds and any(column.name in row for row in rows)]
    lines = [["", *(column.heading(report.get("confidence_level", 0)) for column in columns)]]
    for row in rows:
        numbers = (_number(row, column.name, column.number_format) for column in columns)
        lines.append([printable(row["name"]), *numbers])
    return lines


def _number(row: dict[str, Any], key: str, number_format: str = ".6g") -> str:
    if key not in row:
        return ""
    return "nan" if row[key] is None else format(row[key], number_format)


def _arrival(report: Report) -> str:
    distance = report.get("joint_distance", math.nan)
    if distance is None or not math.isfinite(distance):
        return ""
    shown = f"{distance:.2g}" if distance < 10 else f"{distance:,.0f}"
    if distance <= 1:
        return f"SGD has come as near to the optimum as the data can tell (joint distance {shown}, at most 1)"
    reason = report.get("reason", "train longer, or with a smaller lr")
    return f"SGD is not at the optimum (joint distance {shown}, should be at most 1): {reason}"


def _penalty(report: Report) -> str:
    if "penalty" not in report:
        return ""
    text = f"penalty {report['penalty']:.6g}, l1_ratio {report['l1_ratio']:g}"
    if "cv" in report:
        found = report["cv"]
        mse, se = (found[key][found["penalty"].index(found["chosen"])] for key in ("mse", "se"))
        how = "the smallest error" if found["rule"] == "min" else "the largest within one standard error of the best"
        text += f", chosen by cross-validation in {found['folds']} folds ({how}):"
        text += f" mse {mse:.6g} ± {se:.2g} on rows left out"
        if found["chosen"] == found["penalty"][-1] and report["columns_left"]:
            text += "; it is the smallest of the path: a penalty hardly helps"
    if (gap := report.get("duality_gap") or 0.0) > MAX_GAP:
        text += f"\nthe solution is not exact: its duality gap is {gap:.1g} of the target's sum of squares"
    left = [printable(row["name"]) for row in report["coefficients"] if row["estimate"] and row["name"] != "bias"]
    names = f": {', '.join(left[:SHOWN])}{', …' if len(left) > SHOWN else ''}" if left else ""
    text += f"\n{report['columns_left']} of {report['num_features']} columns are left{names}"
    if any("standard_error" in row for row in report["coefficients"]):
        return f"{text}\nstandard errors and p do not know that these columns were chosen: they are too small"
    return f"{text}\nthere are no standard errors: after a choice by the same rows those of least squares do not hold"


def _optimum(report: Report) -> str:
    if "optimum" not in report:
        return ""
    best = report["optimum"]
    text = (
        f"noise floor {report['noise_floor']:.6g} (residual std {best['residual_std']:.6g},"
        f" {best['dof']} degrees of freedom), condition number {best['condition_number']:.3g}"
    )
    if (kind := report.get("covariance", "classical")) != "classical":
        clusters = " and ".join(f"{n} by {printable(name)}" for name, n in report.get("clusters", {}).items())
        text += f"\nstandard errors: {kind}, {clusters or 'for errors of any variance'}"
    if "f" in best and not _is_sgd(report):
        has_bias = report["coefficients"][-1]["name"] == "bias"
        r2 = "adjusted r2" if has_bias else f"r2 about zero, as there is no bias, {best['r2']:.6g}, adjusted"
        dof = min(report["clusters"].values()) - 1 if report.get("clusters") else best["dof"]
        text += f"\n{r2} {best['adjusted_r2']:.6g}, F {best['f']:.6g} on {report['num_features']} and {dof} degrees of"
        text += f" freedom (p {best['f_p']:.2g})"
        text += f", AIC {best['aic']:.6g}, BIC {best['bic']:.6g}" if "aic" in best else ""
    return text


def format_scores(report: Report) -> str:
    """Format the scores of the training, validation and test rows as a table."""
    return table(_scores(report))


def _scores(report: Report) -> list[list[str]]:
    parts = [part for part in ("train", "val", "test") if part in report]
    names = list(dict.fromkeys(name for part in parts for name in report[part]))
    return [["", *names], *([part, *(_number(report[part], name) for name in names)] for part in parts)]


def _vector(values: list[float]) -> str:
    shown = ", ".join("nan" if value is None else f"{value:.4g}" for value in values[:8])
    return f"[{shown}{', …' if len(values) > 8 else ''}]"


def _next_steps(report: Report, folder: Path) -> str:
    run, program = printable(quote(folder.as_posix())), as_run("python train.py")
    following = "validate" if "val" in report else "predict"
    place = folder.resolve() if ".." in folder.parts else folder
    lines = [f"this run  {run}"]
    if any(folder.glob("events.out.tfevents.*")):  # another logger writes elsewhere
        logdir = printable(quote(place.parent.parent.as_posix()))
        lines += [f"look      tensorboard --logdir {logdir} --host localhost", f"          {_link(report, place)}"]
    lines += [f"again     {program} report {run}", f"next      {program} {following} {run}"]
    return "\n".join(lines)


def _link(report: Report, folder: Path) -> str:
    """Address at which TensorBoard shows this run only: its charts, or the report where there are no SGD steps."""
    run = url_quote(f"^{re.escape(folder.relative_to(folder.parent.parent).as_posix())}$", safe="/$")
    tab = "custom_scalars&_smoothingWeight=0" if _is_sgd(report) else "text"
    tab = "timeseries" if (folder / "hparams.yaml").exists() else tab  # Lightning's own logger wrote neither
    return f"http://localhost:6006/#{tab}&regexInput={run}"
