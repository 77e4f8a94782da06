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
LAYERS = (  # each imports only from those before it, and from itself
    "__init__",
    "console",
    "errors",
    "files",
    "checkpoints",
    "processes",
    "hooks",
    "history",
    "progress",
    "functional",
    "optim",
    "metrics",
    "data",
    "shuffle",
    "export",
    "models",
    "parser",
    "report",
    "figures",
    "comparison",
    "logger",
    "callbacks",
    "profiler",
    "quiet",
    "estimator",
    "cli",
    "sweep",
    "__main__",
)
FILES = {
    ".".join(("linreg_pl", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
PACKAGES = [name for name, path in FILES.items() if path.name == "__init__.py" and name != "linreg_pl"]


def layer(module):
    """Position of a module's layer."""
    return LAYERS.index(module.removeprefix("linreg_pl").strip(".").split(".")[0] or "__init__")


def imports(module):
    """All modules that a module imports, wherever in its text, with the names it takes from each."""
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
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
    assert {"linreg_pl", "linreg_pl.cli", "linreg_pl.functional.regression", "linreg_pl.models.scratch"} <= set(FILES)
    assert ("linreg_pl.functional.regression", "linreg") in own_imports("linreg_pl.models.scratch")


@pytest.mark.parametrize("module", FILES)
def test_imports_go_one_way(module):
    for imported, _ in own_imports(module):
        assert layer(imported) <= layer(module), f"{module} imports {imported}, which is built on it"


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


def test_files_are_named_after_their_reason():
    assert not [name for name in FILES if name.rsplit(".", 1)[-1] in {"utils", "util", "helpers", "common", "misc"}]


@pytest.mark.parametrize("module", ["linreg_pl", "linreg_pl.report", "linreg_pl.errors", "linreg_pl.__main__"])
def test_import_needs_no_torch(module):
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "linreg_pl" in imported
    assert not imported & {"torch", "lightning", "numpy", "pyarrow", "torchmetrics", "tensorboard"}
