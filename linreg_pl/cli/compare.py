"""``train.py compare``: finished runs side by side, as in papers. Needs no torch."""

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from linreg_pl.cli.arguments import CommandParser
from linreg_pl.errors import InputError, printable
from linreg_pl.files import csv_bytes
from linreg_pl.runs import report

LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {character: "\\" + character for character in "&%$#_{}"}
STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
LEGEND = "* p < 0.05, ** p < 0.01, *** p < 0.001"
BELOW = {"adjusted r2": "adjusted_r2", "residual std": "residual_std", "F": "f"}  # keys of a report's "optimum"

Table = list[list[str]]


def command(arguments: list[str]) -> None:
    """Run ``python train.py compare`` with these arguments."""
    parser = CommandParser("compare", "Show finished runs side by side, standard errors in parentheses.")
    parser.add_argument("RUN", type=Path, nargs="+", help="folders of finished runs, runs/NAME/version_N")
    parser.add_argument("--format", choices=WRITERS, default="text", help="default: text")
    parser.add_argument("--stars", action="store_true", help=f"mark small p-values: {LEGEND}")
    given = parser.parse_args(arguments)
    short = ["/".join(folder.resolve().parts[-2:]) for folder in given.RUN]
    names = short if len(set(short)) == len(short) else map(str, given.RUN)
    rows = _side_by_side({name: report.read(run) for name, run in zip(names, given.RUN, strict=True)}, given.stars)
    print(WRITERS[given.format](rows, LEGEND if given.stars else ""), end="")


def _side_by_side(reports: dict[str, report.Report], stars: bool) -> Table:
    """Return the cells of a table with a column for each run, its headings first."""
    try:
        found = [{row["name"]: row for row in each["coefficients"]} for each in reports.values()]
        names = list(dict.fromkeys(name for rows in found for name in rows if name != "bias"))
        names += ["bias"] * any("bias" in rows for rows in found)
        lines = [["", *reports], ["model", *(each["model"] for each in reports.values())]]
        for name in names:
            mine = [rows.get(name, {}) for rows in found]
            lines.append([name, *(_number(row, "estimate", ".5g") + (_stars(row) if stars else "") for row in mine)])
            errors = [_number(row, "standard_error", ".3g") for row in mine]
            lines.append(["", *(f"({error})" if error else "" for error in errors)])
        lines.append(["standard errors", *(each.get("covariance", "") for each in reports.values())])
        lines.append(["rows", *(f"{each['num_train']:,}" for each in reports.values())])
        lines.append(["r2", *(_number(each.get("train", {}), "r2", ".4g") for each in reports.values())])
        # Of the optimum, which SGD may not have reached; not those without a penalty of a run that has one.
        best = [{} if "lr" in each else each.get("optimum", {}) for each in reports.values()]
        exact = [found if "f" in found else {} for found in best]
        lines += [[title, *(_number(found, key, ".4g") for found in exact)] for title, key in BELOW.items()]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"one of {', '.join(reports)} holds no report of this program") from error
    return [line for line in lines if line[0] == "" or any(line[1:])]


def _number(row: dict[str, Any], key: str, number_format: str) -> str:
    return "" if row.get(key) is None else format(row[key], number_format)


def _stars(row: dict[str, Any]) -> str:
    p = row.get("p")
    return "" if p is None else next((mark for limit, mark in STARS if p < limit), "")


def _text(rows: Table, legend: str) -> str:
    return report.table([[printable(cell) for cell in row] for row in rows]) + f"\n{legend}" * bool(legend) + "\n"


def _markdown(rows: Table, legend: str) -> str:
    cells = [[cell.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*") for cell in row] for row in rows]
    first, *others = ["| " + " | ".join(row) + " |" for row in cells]
    end = "\n" + legend.replace("*", "\\*") + "\n" if legend else ""
    return "\n".join([first, "| --- |" + " ---: |" * (len(rows[0]) - 1), *others]) + "\n" + end


def _latex(rows: Table, legend: str) -> str:
    lines = [" & ".join("".join(LATEX.get(c, c) for c in cell) for cell in row) + r" \\" for row in rows]
    note = [rf"\multicolumn{{{len(rows[0])}}}{{l}}{{\footnotesize {legend.replace('<', '$<$')}}} \\"] if legend else []
    begin = rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"
    return "\n".join([begin, r"\hline", lines[0], r"\hline", *lines[1:], r"\hline", *note, r"\end{tabular}"]) + "\n"


def _html(rows: Table, legend: str) -> str:
    def line(row: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"

    caption = [f"<caption>{escape(legend)}</caption>"] if legend else []
    lines = [line(rows[0], "th"), *(line(row, "td") for row in rows[1:])]
    return "\n".join(["<table>", *caption, *lines, "</table>"]) + "\n"


def _csv(rows: Table, legend: str) -> str:
    return csv_bytes([dict(zip(["name", *rows[0][1:]], row, strict=True)) for row in rows[1:]]).decode()


WRITERS: dict[str, Callable[[Table, str], str]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
    "html": _html,
    "csv": _csv,
}
