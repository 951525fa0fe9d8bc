"""The tutorial works as printed: write its files, run its commands, compare their output."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parents[1] / "docs/tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def steps() -> Iterator[tuple[str, str]]:
    """Yield ("file", text) for every file, and (command, output) for every command, in order."""
    for kind, text in BLOCK.findall(GUIDE):
        if kind == "python":
            yield "file", text
            continue
        for command in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            found = re.match(r"((?:.*\\\n)*.*\n)([\s\S]*)", command)
            assert found
            line, output = found.groups()
            yield line.replace("\\\n", " ").strip(), output


def same(printed: str, shown: str) -> None:
    """Assert that a command printed what the page shows; "..." matches the rest of a line, or whole lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n"
        for line in shown.splitlines()
    )
    plain = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
    assert re.fullmatch(pattern, plain), f"the page shows\n{shown}\nthe command printed\n{plain}"


def write(folder: Path, text: str) -> None:
    found = re.match(r"# (\w+\.py)\n", text)
    assert found, "a file starts with its name"
    (folder / found.group(1)).write_text(text, encoding="utf-8")


def check(here, folder: Path, command: str, shown: str) -> None:
    """Run a command of fedtoll, and compare its output with the page."""
    command, _, file = command.partition(" > ")
    serial = ["--executor", "serial"] if command.startswith("fedtoll run ") else []  # changes no byte
    _, out, err = here(*shlex.split(command)[1:], *serial)
    if file:
        (folder / file).write_text(out, encoding="utf-8")
        out = ""
    same(err + out, shown)


@pytest.mark.slow
def test_the_cheap_commands_say_what_the_page_says(here, tmp_path):
    cheap = ("fedtoll describe ", "fedtoll check ", "fedtoll check-strategy ")
    checked = 0
    for step, shown in steps():
        if step == "file":
            write(tmp_path, shown)
        elif step.startswith(cheap):
            check(here, tmp_path, step, shown)
            checked += 1
    assert checked == 5


@pytest.mark.thorough
def test_the_whole_tutorial(here, tmp_path):
    for step, shown in steps():
        if step == "file":
            write(tmp_path, shown)
        elif step.startswith("fedtoll "):
            check(here, tmp_path, step, shown)
        else:
            python, file = step.split()
            assert python == "python"
            same(subprocess.check_output([sys.executable, file], cwd=tmp_path, text=True), shown)
    figure = (tmp_path / "toll.svg").read_text(encoding="utf-8")
    assert figure.startswith("<svg")
    for group in ("White", "Black", "Asian-Pac-Islander", "Amer-Indian-Eskimo", "Other"):
        assert group in figure
