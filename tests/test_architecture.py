"""Imports go one way; what needs no torch does not import it."""

import ast
import importlib
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import linreg_pl

ROOT = Path(linreg_pl.__file__).parent
ROOMS = (  # each imports only from those before it, and from itself
    "errors",
    "system",
    "files",
    "functional",
    "metrics",
    "tables",
    "data",
    "runs",
    "engine",
    "callbacks",
    "models",
    "estimator",
    "cli",
    "__main__",
    "",  # linreg_pl itself, whose public names are imported when they are asked for
)
LOOSE = {"__init__", "__main__", "errors", "files", "estimator", "system"}  # modules of no room
MAX_FILE, MAX_CLASS = 330, 220  # lines
OLD_WORDS = {  # of house.md, which say less than the words that replaced them
    word
    for line in (
        "promises worked_on watched own_units to_own_units as_the_model_sees _seen _shown _some",
        "how_to_get_rows Share Orders take_scores unfinished penalised loss_per_squared_error",
        "takes_plain_steps chunk_divisor learn_factor begin_with remember interrupted write_whole copy_whole",
        "Line _Here drop_unused Together NoProfiler",
    )
    for word in line.split()
}
FILES = {
    ".".join(("linreg_pl", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
PACKAGES = [name for name, path in FILES.items() if path.name == "__init__.py" and name != "linreg_pl"]


def room(module):
    """Position of a module's room."""
    return ROOMS.index(module.removeprefix("linreg_pl").strip(".").split(".")[0])


def imports(module):
    """All modules that a module imports when it runs, with the names it takes from each."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    for_types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    skipped = {id(below) for node in for_types for below in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield (submodule, None) if submodule in FILES else (node.module, alias.name)


def own_imports(module):
    return {(name, taken) for name, taken in imports(module) if name.split(".")[0] == "linreg_pl"}


def test_every_file_is_looked_at():
    assert {"linreg_pl", "linreg_pl.cli.app", "linreg_pl.functional.regression", "linreg_pl.models.scratch"} <= set(
        FILES
    )
    assert ("linreg_pl.functional.regression", "linreg") in own_imports("linreg_pl.models.scratch")


@pytest.mark.parametrize("module", FILES)
def test_imports_go_one_way(module):
    for imported, _ in own_imports(module):
        assert room(imported) <= room(module), f"{module} imports {imported}, which is built on it"


def test_there_are_no_cycles():
    graph = {module: {imported for imported, _ in own_imports(module)} for module in FILES}
    assert set(TopologicalSorter(graph).static_order()) == set(FILES)  # raises CycleError


@pytest.mark.parametrize("module", FILES)
def test_private_names_stay_private(module):
    assert not [name for _, name in own_imports(module) if name and name.startswith("_") and name != "__version__"]


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("linreg_pl.functional")])
def test_functions_know_no_lightning(module):
    assert not {name.split(".")[0] for name, _ in imports(module)} & {"lightning", "torchmetrics"}


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_what_a_package_imports(package):
    taken = {name for _, name in own_imports(package) if name}
    assert set(getattr(importlib.import_module(package), "__all__", ())) == taken


def test_few_modules_are_loose():
    assert {path.stem for path in ROOT.glob("*.py")} == LOOSE


@pytest.mark.parametrize("module", FILES)
def test_files_and_classes_are_short(module):
    text = FILES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE
    classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in classes}
    assert not {name for name, lines in long.items() if lines > MAX_CLASS}, long


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("linreg_pl.data")])
def test_data_do_not_look_at_the_model(module):
    text = FILES[module].read_text(encoding="utf-8")
    assert "lightning_module" not in text
    assert not [name for name, _ in own_imports(module) if name.startswith("linreg_pl.models")]


@pytest.mark.parametrize("module", FILES)
def test_old_words_are_gone(module):
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    names = {getattr(node, key, None) for node in ast.walk(tree) for key in ("id", "attr", "name", "arg")}
    assert not names & OLD_WORDS


def test_old_import_paths_work():
    code = (
        "from linreg_pl.data.perturbed import Perturbed; from linreg_pl.logger import RunLogger;"
        "from linreg_pl.data.sources import open_table; from linreg_pl.optim import SGD; import linreg_pl.report;"
        "from linreg_pl.callbacks import DurableCheckpointIO; import linreg_pl.runs.report;"
        "from linreg_pl.functional.sgd import sgd_steps; assert linreg_pl.report is linreg_pl.runs.report"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, check=True)


def test_public_names_are_lazy_and_complete():
    assert {*linreg_pl.__all__} == {name for names in linreg_pl._HOMES.values() for name in names}
    for name in linreg_pl.__all__:
        assert getattr(linreg_pl, name).__name__ == name


def test_files_are_named_after_their_reason():
    assert not [name for name in FILES if name.rsplit(".", 1)[-1] in {"utils", "util", "helpers", "common", "misc"}]


@pytest.mark.parametrize("module", ["linreg_pl", "linreg_pl.runs.report", "linreg_pl.errors", "linreg_pl.__main__"])
def test_import_needs_no_torch(module):
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "linreg_pl" in imported
    assert not imported & {"torch", "lightning", "numpy", "pyarrow", "torchmetrics", "tensorboard"}
