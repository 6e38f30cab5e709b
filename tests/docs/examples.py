"""Examples in texts: commands with what they print, compared with what they print now.

A line `...` of an example stands for lines left out; times and rates may differ. An exit status other than 0
stands in the last line, `[exit status: 1]`.
"""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from launcher import decoded, launcher

ROOT = Path(__file__).parents[2]
FIGURE = re.compile(r"\d[\d,.]*(?= s\b| exits\b|/s\b)")
STATUS = re.compile(r"^\[exit status: (\d+)\]\n\Z", re.MULTILINE)
NEEDS_MORE = {"/bin/busybox": "a static busybox and the extra `guest`"}


def masked(text: str) -> list[str]:
    """Lines without times and rates."""
    return [FIGURE.sub("N", line.rstrip()) for line in text.strip("\n").split("\n")]


def stretches_of(example: str) -> list[list[str]]:
    """What is between the lines `...`; an empty first or last one if the example begins or ends so."""
    found: list[list[str]] = [[]]
    for line in masked(example):
        if line == "...":
            found.append([])
        else:
            found[-1].append(line)
    return found


def differs(example: str, shown: str) -> str | None:
    """The first line of an example that is not as shown, or None."""
    lines, at = masked(shown), 0
    stretches = stretches_of(example)
    for number, stretch in enumerate(stretches):
        places = [at] if number == 0 else range(at, len(lines) - len(stretch) + 1)
        for place in places:
            if lines[place : place + len(stretch)] == stretch:
                at = place + len(stretch)
                break
        else:
            return f"not shown as in the text: {stretch}"
    if stretches[-1] and at != len(lines):
        return f"the text leaves out {lines[at]!r} without a line `...`"
    return None


def run_command(words: list[str], folder: Path = ROOT) -> tuple[str, int]:
    """What `shadowmmu` prints for these words, on 80 columns without colours, and its status."""
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "80", "NO_COLOR": "1",
    }  # fmt: skip
    done = decoded(launcher().run(words, cwd=folder, env=environment, timeout=300, merged=True))
    lines = [line for line in done.stdout.split("\n") if not line.startswith("shadowmmu: not compiled")]
    return "\n".join(lines), done.returncode


def check_example(line: str, example: str) -> None:
    """Run the command of an example, `shadowmmu ...`, and compare; skip what needs more than there is."""
    words = shlex.split(line)[1:]
    if any(word in NEEDS_MORE for word in words):
        pytest.importorskip("unicorn")
        pytest.importorskip("iced_x86")
        if not all(shutil.which(word) for word in words if word in NEEDS_MORE):
            pytest.skip("no busybox")
    if words[0] == "race":
        pytest.importorskip("greenlet")
    status = STATUS.search(example)
    shown, returned = run_command(words)
    assert returned == (int(status[1]) if status else 0), shown
    assert differs(STATUS.sub("", example), shown) is None
