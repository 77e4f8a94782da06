"""What a formula may say: its terms, read by formulaic, and checked before anything is evaluated."""

import ast
import inspect
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from linreg_pl.errors import InputError, suggestion

MAX_TERMS, MAX_BASIS, MAX_LENGTH = 10_000, 100, 20_000  # terms, columns of one polynomial or spline, characters
MAX_SHOWN = 100  # characters of a formula in a message
NAMES = "abs arctan cbrt ceil cos exp exp2 expm1 floor log log10 log1p log2 maximum minimum sign sin sqrt tan tanh"
ELEMENTWISE = {name: getattr(np, name) for name in NAMES.split()}
STATEFUL = ("bs", "cc", "center", "cr", "cs", "poly", "scale", "standardize")
CODINGS = ("Treatment", "Sum", "Helmert", "Diff", "Poly")
FUNCTIONS = (*ELEMENTWISE, *STATEFUL, *CODINGS, "C", "I", "Q")
CONTRASTS = [f"contr.{name}" for name in ("treatment", "SAS", "sum", "helmert", "diff", "poly")]
ALLOWED = (
    *(ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.Name, ast.Constant, ast.List, ast.Tuple, ast.keyword),
    *(ast.Load, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitAnd, ast.BitOr),
    *(ast.USub, ast.UAdd, ast.Invert, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)


class Factor(NamedTuple):
    """A part of a term, such as ``rooms`` or ``log(price)``."""

    text: str  # as formulaic writes it
    tree: ast.expr | None  # of the expression; None for a plain column
    aliases: dict[str, str]  # the columns in backticks, by the words that stand for them in the tree

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the table that it uses."""
        if self.tree is None:
            return [self.text]
        called = {id(node.func) for node in ast.walk(self.tree) if isinstance(node, ast.Call)}
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name) and id(node) not in called and node.id not in (*CODINGS, "contr"):
                found.append(self.aliases.get(node.id, node.id))
            elif is_call(node, ["Q"]):
                found.append(ast.literal_eval(node.args[0]))
        return list(dict.fromkeys(found))

    @property
    def is_coded(self) -> bool:
        """Whether its values are levels, whatever their type."""
        return self.tree is not None and is_call(self.tree, ["C"])

    @property
    def levels(self) -> list[Any] | None:
        """The levels that it names itself, as in ``C(city, levels=['Rome', 'Oslo'])``."""
        given = [keyword.value for keyword in getattr(self.tree, "keywords", ()) if keyword.arg == "levels"]
        return list(ast.literal_eval(given[0])) if self.is_coded and given else None


class Terms(NamedTuple):
    """A formula that has been read."""

    left: Any  # formulaic's formula of the target
    right: Any  # formulaic's formula of the columns of X; the intercept is the term "1"
    left_factors: list[Factor]  # what the target is made of
    right_factors: list[Factor]  # what the columns of X are made of

    @property
    def factors(self) -> list[Factor]:
        """What both sides are made of."""
        return [*self.left_factors, *self.right_factors]

    @property
    def has_intercept(self) -> bool:
        """Whether there is an intercept."""
        return any(str(term) == "1" for term in self.right)


def is_call(node: ast.AST, names: Sequence[str]) -> TypeGuard[ast.Call]:
    """Return whether a node calls one of some functions."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def learning_calls(tree: ast.AST | None) -> dict[str, ast.Call]:
    """Return the calls of functions that learn from the rows, by their text."""
    nodes = ast.walk(tree) if tree is not None else ()
    return {ast.unparse(node): node for node in nodes if is_call(node, STATEFUL)}


def refuse(formula: str, what: str) -> InputError:
    """Return the error for a formula."""
    shown = formula if len(formula) <= MAX_SHOWN else formula[:MAX_SHOWN] + "…"
    return InputError(f"--data.formula {shown!r}: {what}")


@lru_cache(maxsize=16)
def read_formula(formula: str, others: tuple[str, ...] = ()) -> Terms:
    """Read a formula, in which ``.`` stands for some columns but those of the left side, and check it.

    Raises:
        InputError: formulaic is not installed, or the formula cannot be read, has not one target, has too many terms,
            or uses what no formula may.
    """
    try:
        from formulaic import Formula
        from formulaic.parser import DefaultFormulaParser
    except ImportError as error:
        what = 'needs the package formulaic: python -m pip install "linreg_pl[formula]"'
        raise InputError(f"--data.formula: {what}") from error
    if len(formula) > MAX_LENGTH:
        raise refuse(formula, f"is longer than {MAX_LENGTH:,} characters")
    available = {"__formulaic_variables_available__": list(others)}
    try:
        count = _num_terms(DefaultFormulaParser().get_ast(formula, context=dict(available)), len(others))
        terms = Formula(formula, _context=available) if count <= MAX_TERMS else None
        sides = [list(getattr(terms, side, ())) for side in ("lhs", "rhs")]
        factors = [_factors(side) if len(sides[0]) == 1 and "|" not in formula else [] for side in sides]
    except Exception as error:  # formulaic and Python's parser raise many kinds
        said = re.sub(r"\x1b?\[[\d;]*m|[⧛⧚]", "", str(error).partition("\n")[0])  # without its colours
        raise refuse(formula, f"cannot be read: {said[:200]}") from error
    if count > MAX_TERMS:
        raise refuse(formula, f"would have over {MAX_TERMS:,} terms")
    if len(sides[0]) != 1 or not factors[1]:
        raise refuse(formula, "must be 'target ~ columns', with one target and at least one column")
    for factor in (*factors[0], *factors[1]):
        if factor.tree is not None:
            _check(formula, factor.tree)
    return Terms(terms.lhs, terms.rhs, *factors)  # type: ignore[union-attr]


def _factors(terms: Sequence[Any]) -> list[Factor]:
    from formulaic.utils.code import sanitize_variable_names

    found: dict[str, Factor] = {}
    for factor in (factor for term in terms for factor in term.factors):
        aliases: dict[str, str] = {}
        if factor.eval_method.value == "python":
            tree = ast.parse(sanitize_variable_names(factor.expr, {}, aliases), mode="eval").body
            found[factor.expr] = Factor(factor.expr, tree, aliases)
        elif factor.eval_method.value == "lookup":
            found[factor.expr] = Factor(factor.expr, None, aliases)
    return list(found.values())


def _num_terms(tree: Any, num_others: int) -> float:
    """Return an upper bound of the number of terms, before formulaic multiplies them out."""
    nodes = [tree]
    for node in nodes:  # while it grows: a recursion would be too deep for a long sum
        nodes += getattr(node, "args", ())
    found: dict[int, float] = {}
    for node in reversed(nodes):
        counts = [found[id(child)] for child in getattr(node, "args", ())]
        symbol = node.operator.symbol if hasattr(node, "operator") else ""
        if symbol in ("**", "^"):
            digits = str(node.args[1])
            power = int(digits) if digits.isdigit() and len(digits) < 5 else MAX_TERMS
            count = counts[0] ** min(power, 64) if counts[0] > 1 else power
        elif symbol in ("*", ":"):
            count = math.prod(count + (symbol == "*") for count in counts)
        else:
            count = num_others if symbol == "." else max(sum(counts), 1)
        found[id(node)] = min(count, 10.0 * MAX_TERMS)
    return found[id(tree)]


def _check(formula: str, tree: ast.expr) -> None:
    """Refuse whatever could do more than arithmetic on columns, or take without end."""
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if is_contrast(node):
            continue
        if not isinstance(node, ALLOWED):
            what = f"{ast.unparse(node)[:60]!r}" if isinstance(node, ast.expr) else type(node).__name__
            raise refuse(formula, f"{what}: a formula holds columns, numbers, arithmetic and functions such as log")
        if isinstance(node, ast.Call):
            if not is_contrast(node.func) and getattr(node.func, "id", "") not in FUNCTIONS:
                raise refuse(formula, _no_function(ast.unparse(node.func)))
            if any((keyword.arg or "_")[0] == "_" for keyword in node.keywords) or not (node.args or node.keywords):
                raise refuse(formula, f"{ast.unparse(node)[:60]}: cannot be called so")
            if is_call(node, ["Q"]) and not (len(node.args) == 1 and isinstance(node.args[0], ast.Constant)):
                raise refuse(formula, "Q: takes the name of a column, in quotes")
            if is_call(node, STATEFUL):
                arguments(formula, node)
        elif isinstance(node, ast.Name) and id(node) not in called and node.id in ("I", "Q", *STATEFUL):
            raise refuse(formula, f"{node.id}: is a function, as in {node.id}(x)")
        elif isinstance(node, ast.BinOp):
            _check_arithmetic(formula, node)


def is_contrast(node: ast.AST) -> bool:
    """Return whether a node is one of formulaic's contrasts."""
    return isinstance(node, ast.Attribute) and ast.unparse(node) in CONTRASTS


def _no_function(name: str) -> str:
    short = name.removeprefix("np.").removeprefix("numpy.")
    if short in ELEMENTWISE:
        return f"{name}: write {short}"
    if name == "lag":
        return "lag: takes its values from the row before, which a table read piece by piece does not tell"
    return f"{name}: is no function of a formula{suggestion(short, FUNCTIONS) or '; there are ' + ', '.join(FUNCTIONS)}"


def _check_arithmetic(formula: str, node: ast.BinOp) -> None:
    """Refuse text and lists in arithmetic, and powers of numbers that would never end."""
    for side in (node.left, node.right):
        if isinstance(side, ast.List | ast.Tuple) or isinstance(getattr(side, "value", 0), str):
            raise refuse(formula, f"{ast.unparse(node)[:60]!r}: is arithmetic on text or lists")
    names = {below.id for below in ast.walk(node) if isinstance(below, ast.Name)}
    if isinstance(node.op, ast.Pow) and not names - {*FUNCTIONS}:
        base, exponent = (getattr(side, "value", None) for side in (node.left, node.right))
        if not (isinstance(base, int | float) and isinstance(exponent, int | float) and abs(exponent) <= MAX_BASIS):
            raise refuse(formula, f"{ast.unparse(node)[:60]!r}: write the number")


def arguments(formula: str, call: ast.Call) -> tuple[ast.expr, dict[str, Any]]:
    """Return the column, and the other arguments with their defaults, of a function that learns from the rows.

    Raises:
        InputError: one of the others is no constant, or asks for too many columns.
    """
    from formulaic.transforms import TRANSFORMS

    name = ast.unparse(call.func)
    signature = inspect.signature(TRANSFORMS[name])
    try:
        bound = signature.bind(*call.args, **{str(keyword.arg): keyword.value for keyword in call.keywords})
        (_, column), *others = bound.arguments.items()
        given = {key: ast.literal_eval(value) for key, value in others}
    except TypeError as error:
        raise refuse(formula, f"{ast.unparse(call)[:60]}: {error}") from error
    except ValueError as error:
        raise refuse(formula, f"{ast.unparse(call)[:60]}: only the first argument may be a column") from error
    result = {key: parameter.default for key, parameter in list(signature.parameters.items())[1:]} | given
    result.pop("_state", None)
    for key in ("degree", "df"):
        if not (result.get(key) is None or (type(result[key]) is int and 0 <= result[key] <= MAX_BASIS)):
            raise refuse(formula, f"{name}: {key} {result[key]}: must be a whole number up to {MAX_BASIS}")
    return column, result
