"""Which columns of a table are used for what, as the flags say, and what is refused: by an InputError that says why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from linreg_pl.errors import InputError, suggestion
from linreg_pl.tables.columns import Columns
from linreg_pl.tables.expressions import read_formula
from linreg_pl.tables.formula import Formula, saved_columns
from linreg_pl.tables.sources import Source, require_columns
from linreg_pl.tables.values import can_be_levels, described, is_time, numeric_names

PREDICTED = ("row", "prediction", "standard_error", "low", "high")  # columns of the predictions


def coded_columns(categorical: Sequence[str], formula: str | Mapping[str, Any] | None) -> list[str]:
    """Return the columns whose values are levels, so that ``01234`` is not the number 1234."""
    if formula is None:
        return list(categorical)
    text = formula if isinstance(formula, str) else formula["formula"]
    return [name for factor in read_formula(text, ("_",)).factors if factor.is_coded for name in factor.columns]


def named_columns(
    source: Source,
    apart: Sequence[str | None],
    target: str | None,
    features: Sequence[str] | None,
    categorical: Sequence[str],
    levels: Mapping[str, Sequence[str]],
    **options: Any,
) -> Columns:
    """Return how the columns of a table are used, where no formula tells; see `Table` for the arguments.

    Columns that are ``apart`` are no features unless they are named; ``options`` are those of `Columns`.
    """
    if target is None:
        raise InputError("--data.target: must be given, or --data.formula 'target ~ columns'")
    if features is None:
        numeric = numeric_names(source)
        usable = [name for name in source.schema.names if name in numeric or name in categorical]
        features = [name for name in usable if name not in (target, *apart)]
    require_columns("--data.features", features, source)
    if not features:
        raise InputError(
            f"{source.name}: has no numeric column besides the target {target!r}"
            f" (--data.features, --data.categorical); it has {described(source)}"
        )
    if "" in features:
        raise InputError(
            f"{source.name}: a column has no name, as an index that was saved along:"
            " name it, or leave it out of --data.features"
        )
    for name in categorical:
        if not can_be_levels(kind := source.schema.field(name).type):
            raise InputError(f"{source.name}: column {name!r} is of type {kind}, whose values cannot be levels")
    if unused := [name for name in categorical if name not in features]:
        raise InputError(f"--data.categorical: {unused[0]!r} is not among --data.features")
    if strange := [name for name in levels if name not in categorical]:
        hint = suggestion(strange[0], categorical)
        raise InputError(f"--data.levels: {strange[0]!r} is not among --data.categorical{hint}")
    if target in features:
        raise InputError(f"--data.features: contains the target {target!r}")
    known = {name: list(levels.get(name, ())) for name in features if name in categorical}
    return Columns(list(features), known, **options)


def formula_columns(
    source: Source,
    apart: Sequence[str | None],
    formula: str | Mapping[str, Any],
    named: Mapping[str, object],
    **options: Any,
) -> Formula:
    """Return how a formula, or what a checkpoint keeps of one, uses the columns of a table.

    Its ``.`` does not stand for columns that are ``apart``, and flags that it is instead of may not be ``named``.
    """
    if given := [flag for flag, value in named.items() if value]:
        raise InputError(f"--data.{given[0]}: is said by --data.formula; leave it out")
    if isinstance(formula, str):
        usable = [column.name for column in source.schema if can_be_levels(column.type)]
        columns = Formula.of(formula, source, [name for name in usable if name not in apart], **options)
    else:
        columns = Formula(**(dict(formula) | options))
    require_columns("--data.formula", columns.features, source)
    return columns


def check_others(weights: str | None, ids: Sequence[str], used: Sequence[str]) -> None:
    """Refuse weights that are also used otherwise, and columns that the predictions have anyway."""
    if taken := [name for name in ids if name in PREDICTED]:
        raise InputError(f"--data.ids: the predictions have a column {taken[0]!r} of their own; rename yours")
    if weights in used:
        raise InputError(f"--data.weights {weights}: is also the target or a feature")


def check_names(path: str, names: Sequence[str]) -> None:
    """Refuse two columns of X of one name, or one with that of the intercept."""
    for name, count in Counter(names).items():
        if name == "bias" or count > 1:
            what = "the name of the intercept in every report" if name == "bias" else "the name of two columns of X"
            raise InputError(f"{path}: {name!r} is {what}; rename the column")


def check_clusters(source: Source, names: Sequence[str], groups: Sequence[str], targets: Sequence[str]) -> None:
    """Refuse columns that can make no clusters, or no groups."""
    if len(names) > 2:
        raise InputError(f"--data.clusters: {len(names)} columns; give one, or two for two-way clusters")
    for what, given in (("clusters", names), ("groups", groups)):
        for number, name in enumerate(given):
            if name in targets or name in given[:number]:
                raise InputError(f"--data.{what}: {name!r} is given twice, or is the target")
            if not can_be_levels(kind := source.schema.field(name).type):
                raise InputError(f"--data.{what}: column {name!r} is of type {kind}, whose values make no {what}")


def columns_as_saved(state: Mapping[str, Any], wanted: Columns) -> Columns:
    """Return columns with what a checkpoint knows of them, in its order; those that are wanted if they are others."""
    saved = saved_columns(state)
    if saved.time_unit != wanted.time_unit:
        raise InputError(
            f"--data.time_unit {wanted.time_unit}: the checkpoint was made with {saved.time_unit}; leave the flag out"
        )
    if wanted.missing == "mean" and saved.missing != "mean":
        raise InputError(
            "--data.missing mean: the checkpoint holds no means, for the fit did not fill in missing values; use drop"
        )
    alike = sorted(saved.features) == sorted(wanted.features)
    return replace(saved, missing=wanted.missing, unknown=wanted.unknown) if alike else wanted


def column_kinds(source: Source, columns: Columns) -> dict[str, str]:
    """What each feature's column holds: "levels", "times" or "numbers"."""

    def kind(name: str) -> str:
        return "times" if is_time(source.schema.field(name).type) else "numbers"

    return {name: "levels" if name in columns.texts else kind(name) for name in columns.features}
