"""README's Python runs as it stands there, and what it names is there."""

import re
import subprocess
import sys

from tests.support.commands import REPOSITORY

README = REPOSITORY / "README.md"


def test_python_blocks_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) > 4
    command = [sys.executable, "-W", "ignore", "-c", "\n".join(blocks)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_paths_exist():
    text = README.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:linreg_pl|tests|configs)/[\w./]+)`", text):
        assert (REPOSITORY / path).exists(), path


def test_first_evening_is_short():
    files = ("functional/regression", "models/optim", "models/scratch", "models/concise", "data/synthetic")
    texts = [(REPOSITORY / "linreg_pl" / f"{name}.py").read_text(encoding="utf-8") for name in files]
    assert sum(len(text.splitlines()) for text in texts) <= 500
    assert all("Notebook" in text.split('"""')[1] for text in texts)


def test_lines_are_short():
    for name in ("README.md", "README.zh.md", "CHANGELOG.md"):
        for line in (REPOSITORY / name).read_text(encoding="utf-8").splitlines():
            assert len(line) <= 120, line
