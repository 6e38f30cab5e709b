"""The playground, built once, and its page open in the browser."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import shadowmmu
from shadowmmu.cli.commands import cli
from shadowmmu.show.playground.build import folder_files
from shadowmmu.show.playground.runtime import RuntimeUnusable, runtime_files

SLOWEST = 90_000
"""Milliseconds that anything may take on a machine that does much else."""


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """The command in this process."""
    return lambda *words: CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; tests are skipped where npm cannot fetch Pyodide."""
    if not shadowmmu.native:
        pytest.skip("the page interprets the model in either mode: tested once, with the compiled ones")
    try:
        files = folder_files(runtime_files())
    except RuntimeUnusable as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("playground")
    for name, contents in files.items():
        (folder / name).write_bytes(contents)
    return folder


class Playground:
    """The page, which must not complain of anything or fetch anything outside of its folder."""

    def __init__(self, chromium: Any, folder: Path, **context: Any) -> None:
        self.folder = folder
        self.complaints: list[str] = []
        self.fetched: list[str] = []
        self.context = chromium.new_context(**{"viewport": {"width": 1400, "height": 900}, **context})
        self.page = self.context.new_page()
        self.page.set_default_timeout(SLOWEST)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("request", lambda request: self.fetched.append(request.url))
        self.before = processor_seconds()
        self.page.goto(f"file://{folder}/index.html")

    def seconds(self) -> float:
        """Processor time of the browser since the page was opened."""
        return processor_seconds() - self.before

    def status(self, text: str) -> None:
        """Wait until the page says so."""
        self.page.locator("#status", has_text=text).wait_for()

    def write(self, text: str) -> None:
        """Put a scenario into the editor, on the machine that it describes."""
        self.page.evaluate("(text) => { change(AS_WRITTEN); setText(text); }", text)

    def run(self) -> str:
        """Play what is in the editor, by keys, and return what is printed."""
        self.page.evaluate("say('')")
        self.page.focus("#editor")
        self.page.keyboard.press("Control+Enter")
        self.status("layed")
        return str(self.page.text_content("#output"))

    def tables(self) -> Any:
        """The page of page tables."""
        return self.page.frame_locator("#tables")

    def close(self) -> None:
        self.context.close()
        outside = [each for each in self.fetched if not each.startswith((f"file://{self.folder}/", "blob:"))]
        assert not self.complaints
        assert not outside


def processor_seconds() -> float:
    """Processor time of all processes that this one has started, and theirs."""
    children: dict[int, list[int]] = {}
    seconds = {}
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path("/proc", process, "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        children.setdefault(int(fields[1]), []).append(int(process))
        seconds[int(process)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    found, waiting = 0.0, list(children.get(os.getpid(), ()))
    while waiting:
        process_id = waiting.pop()
        found += seconds[process_id]
        waiting += children.get(process_id, ())
    return found


@pytest.fixture(scope="module")
def playground(chromium: Any, built: Path) -> Iterator[Playground]:
    """The page with the model loaded, which takes seconds: the tests of a module share it."""
    opened = Playground(chromium, built)
    opened.status("Ready")
    yield opened
    opened.close()
