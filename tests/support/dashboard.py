"""A real TensorBoard on this machine, and a real browser that looks at it."""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd

from tests.support.commands import Outcome

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
HAS_BROWSER = bool(CHROMIUM and CHROMEDRIVER)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1500,1100", "--no-first-run")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic")
MISLEADING = (  # names of columns
    "<img src=x onerror=alert(1)>",
    "|a|",
    "[x](javascript:alert(2))",
    "![i](http://localhost/x.png)",
    "`b` *c* _d_",
    "&lt;e&#124;",
    "area (m²)",
    "rooms",
)
VISIBLE_TEXT = """
const texts = [], skipped = new Set(['STYLE', 'SCRIPT', 'TEMPLATE', 'DOM-MODULE']);
(function walk(node) {
  if (skipped.has(node.nodeName)) return;
  if (node.nodeType === Node.TEXT_NODE) {
    if (node.parentElement?.checkVisibility() ?? true) texts.push(node.data.trim());
  }
  if (node.nodeName === 'IMG' && node.naturalWidth > 100) texts.push('[picture]');
  for (const child of [...(node.shadowRoot?.childNodes ?? []), ...node.childNodes]) walk(child);
})(document);
return texts.filter(text => text);
"""


def write_misleading_table(path: Path) -> Path:
    """200 rows; the target ``y`` is the sum of all columns and some noise."""
    X = np.random.default_rng(0).normal(size=(200, len(MISLEADING)))
    y = X.sum(1) + np.random.default_rng(1).normal(size=200)
    pd.DataFrame({**dict(zip(MISLEADING, X.T, strict=True)), "y": y}).to_csv(path, index=False)
    return path


class Board(NamedTuple):
    """A TensorBoard, and the runs that it shows."""

    address: str
    folder: Path  # where it was started
    fits: dict[str, Outcome]  # by the run's name


@contextlib.contextmanager
def board(folder: Path, fits: list[Outcome]) -> Iterator[Board]:
    """Start TensorBoard over all runs, as the first of them says."""
    for fit in fits:
        shutil.copytree(fit.cwd / "runs", folder / "runs", dirs_exist_ok=True)
    command = re.search(r"^look +(tensorboard .*)$", fits[0].stdout, re.MULTILINE)
    assert command, fits[0].stdout
    with tensorboard(folder, command[1]) as address:
        yield Board(address, folder, {f"{fit.run.parent.name}/{fit.run.name}": fit for fit in fits})


@contextlib.contextmanager
def tensorboard(cwd: Path, command: str) -> Iterator[str]:
    """Run ``tensorboard ...`` in a folder, on a free port, until the block ends; yields its address."""
    name, *arguments = shlex.split(command)
    assert name == "tensorboard"
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *arguments, "--port", "0"],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"at (http://localhost:\d+)/", line):
                yield found[1]
                return
        raise AssertionError("".join(said))
    finally:
        process.kill()
        process.communicate()


def ask(address: str, path: str, content: Any = None, **query: str) -> Any:
    """What TensorBoard's data API answers; content is posted as JSON."""
    data = None if content is None else json.dumps(content).encode()
    request = Request(f"{address}/data/{path}?{urlencode(query)}", data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)


@contextlib.contextmanager
def browser() -> Iterator[Callable[..., list[str]]]:
    """A browser as ``look(address, *texts)``: all that is seen there, once these are, each as often as it is named."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.wait import WebDriverWait

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    driver = Chrome(options=options, service=Service(CHROMEDRIVER))

    def look(address: str, *wanted: str) -> list[str]:
        driver.get("about:blank")  # else only the part behind the # would change
        driver.get(address)
        seen: list[str] = []

        def missing() -> Counter[str]:
            return Counter(wanted) - Counter(seen)

        def complete(_: Any) -> bool:
            seen[:] = driver.execute_script(VISIBLE_TEXT)  # raises where a dialog has opened
            return not missing()

        try:
            WebDriverWait(driver, 60, poll_frequency=0.2).until(complete)
        except TimeoutException:
            raise AssertionError(f"{address} lacks {missing()}, shows {seen}") from None
        errors = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert not errors, f"{address}: {errors}"
        return seen

    try:
        yield look
    finally:
        driver.quit()
