"""The package alone, outside the checkout: built, installed into an empty folder, and used from another one."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest
from check_jsonschema import main as check_schema
from click.testing import CliRunner

import linreg_pl
from tests.support.commands import CONFIGS, REPOSITORY

GITHUB = REPOSITORY / ".github"
USER = """\
from linreg_pl import LinearRegressor, Scratch, Synthetic

reveal_type(Scratch(num_features=2))
reveal_type(Synthetic().batch_size)
reveal_type(LinearRegressor().fit)
from linreg_pl import Nonsense
"""


def run(*command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder of the sdist, and of the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, REPOSITORY)
    assert "warn" not in (done.stdout + done.stderr).lower()
    return folder


@pytest.fixture(scope="module")
def elsewhere(built, tmp_path_factory):
    """A folder with nothing in it, and the environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:  # what pip does with a wheel of pure Python
        archive.extractall(folder / "site")
    (folder / "home").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return folder / "home", environment | {"PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}


def test_distributions_can_be_shown(built):
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir())
    (wheel,) = built.glob("*.whl")
    metadata = zipfile.ZipFile(wheel).read(f"linreg_pl-{linreg_pl.__version__}.dist-info/METADATA").decode()
    assert "License-Expression: MIT" in metadata


def test_wheel_has_types_and_configs_and_no_tests(built):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {f"linreg_pl/configs/{path.relative_to(CONFIGS).as_posix()}" for path in CONFIGS.rglob("*.*")}
    assert names >= shipped | {"linreg_pl/py.typed"}
    assert {name.split("/")[0] for name in names} == {"linreg_pl", f"linreg_pl-{linreg_pl.__version__}.dist-info"}


def test_sdist_has_what_the_tests_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    listed = run("git", "ls-files", cwd=REPOSITORY).stdout.split() if (REPOSITORY / ".git").exists() else []
    assert names >= {name for name in listed if (REPOSITORY / name).exists()}


def test_wheel_fits_from_any_folder(elsewhere):
    home, environment = elsewhere
    said = run(sys.executable, "-m", "linreg_pl", "fit", "--config", "table", cwd=home, env=environment).stdout
    assert "x       1.00" in said
    commands = re.findall(r"^(?:again|next) +(.*)$", said, flags=re.MULTILINE)
    assert [command.split()[:2] for command in commands] == [["linreg", "report"], ["linreg", "predict"]]
    run(sys.executable, "-m", "linreg_pl", *commands[0].split()[1:], cwd=home, env=environment)


def test_wheel_has_types_for_its_users(elsewhere):
    home, environment = elsewhere
    (home / "user.py").write_text(USER, encoding="utf-8")
    # Of other packages nothing is read, which would take a minute.
    (home / "mypy.ini").write_text("[mypy]\nfollow_imports = skip\n[mypy-linreg_pl.*]\nfollow_imports = silent\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", home / "cache", "user.py"]
    said = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False).stdout
    assert 'Revealed type is "linreg_pl.models.scratch.Scratch"' in said
    assert 'Revealed type is "int"' in said
    assert "-> linreg_pl.estimator.LinearRegressor" in said
    assert [line for line in said.splitlines() if "error" in line][:-1] == [
        'user.py:6: error: Module "linreg_pl" has no attribute "Nonsense"  [attr-defined]'
    ]


@pytest.mark.parametrize("name", ["exercises/lr", "configs/exercises/lr.yaml"])
def test_shipped_configs_have_names(linreg, name):
    flags = ("--model.lr", "0.01,0.1", "--trainer.max_epochs", 1)
    assert linreg("sweep", "--config", name, *flags).succeeded().stdout.endswith("runs/lr/sweep_0\n")


def test_a_file_comes_before_a_shipped_config(linreg, tmp_path):
    (tmp_path / "scratch").write_text("model: Exact\ndata: Synthetic\n", encoding="utf-8")
    assert linreg("fit", "--config=scratch", "--figures=false").succeeded().report["model"] == "exact"


def test_unknown_config_is_told_the_name_that_was_meant(linreg):
    assert (
        linreg("fit", "--config", "scrach").stderr
        == "error: scrach: no such file (--config); did you mean 'scratch'?\n"
    )


@pytest.mark.parametrize(
    "words", [(), ("sweep",), ("refit",), ("export",), ("fit", "--foo", "1"), ("-c", "scratch"), ("wald", "--help")]
)
def test_messages_name_the_command_that_runs(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/linreg", *words])
    try:
        linreg_pl.__main__.main()
    except SystemExit as end:
        said = str(end.code)
    else:
        said = ""
    said += "".join(capsys.readouterr())
    assert "linreg" in said
    assert "train.py" not in said
    assert "configs/" not in said.replace("configs/exercises/:", "")


def test_version(linreg):
    lines = linreg("--version").succeeded().stdout.splitlines()
    assert lines[0].startswith(f"linreg_pl {linreg_pl.__version__}, Python 3.")
    assert any(line.startswith("torch 2.") for line in lines)


def test_public_names_are_offered_for_completion():
    assert set(linreg_pl.__all__) <= set(dir(linreg_pl))


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", "workflows/*.yml"),
        ("dependabot", "dependabot.yml"),
        ("github-issue-forms", "ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", "ISSUE_TEMPLATE/config.yml"),
        ("citation-file-format", "../CITATION.cff"),
    ],
)
def test_files_of_github_follow_their_schemas(schema, files):
    paths = list(map(str, GITHUB.glob(files)))
    assert paths
    done = CliRunner().invoke(check_schema, ["--builtin-schema", f"vendor.{schema}", *paths])
    assert done.exit_code == 0, done.output


def test_versions_agree():
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    oldest, *_, newest = re.findall(r"Python :: (3\.\d+)", project)
    assert f'requires-python = ">={oldest}"' in project
    assert f'python: ["{oldest}", "{newest}"]' in (GITHUB / "workflows/tests.yml").read_text(encoding="utf-8")
    assert f"\nversion: {linreg_pl.__version__}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")


def test_paths_of_contributing_exist():
    for name in re.findall(r"`((?:linreg_pl|tests|configs|\.ci)/[\w./]*)`", (GITHUB / "CONTRIBUTING.md").read_text()):
        assert (REPOSITORY / name).exists(), name
