"""Write a new Python file from a template: a strategy, a mechanism or a data source to start from."""

from __future__ import annotations

import builtins
import importlib.machinery
import keyword
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from fedtoll.scenarios.errors import ScenarioError


def write(kind: str, name: str, folder: Path, template: str, taken: Iterable[str]) -> tuple[Path, str]:
    """Write a file from a template, in which ``CLASS`` and ``NAME`` are replaced.

    Parameters
    ----------
    kind
        What the file defines, ``strategy``, ``mechanism`` or ``source``.
    name
        Lowercase letters and digits, with hyphens between words: ``my-strategy`` gives
        ``my_strategy.py`` with the class ``MyStrategy``.
    folder
        Where to write the file; created if it does not exist.
    template
        The content.
    taken
        The names that are installed.

    Returns
    -------
    tuple
        The file and the name of its class.

    Raises
    ------
    ScenarioError
        If the name is invalid or taken, or the file exists or cannot be written. One line.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ScenarioError(
            f"new-{kind} {name!r}: must be lowercase letters and digits, with hyphens between words, "
            f"e.g. 'my-{kind}'"
        )
    if name in {known.replace("_", "-") for known in taken}:
        raise ScenarioError(
            f"new-{kind} {name!r}: a {kind} with this name is already installed; choose another name"
        )
    module, cls = name.replace("-", "_"), "".join(word.capitalize() for word in name.split("-"))
    path = folder / f"{module}.py"
    if path.exists() or path.is_symlink():
        raise ScenarioError(f"new-{kind} {name!r}: {path} exists and is left unchanged")
    if _shadows(module, cls, template):
        raise ScenarioError(
            f"new-{kind} {name!r}: {module} or {cls} would shadow a name that Python or the file needs; "
            "choose another name"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(template.replace("CLASS", cls).replace("NAME", name))
    except OSError as error:
        raise ScenarioError(f"new-{kind} {name!r}: {path} cannot be written: {error.strerror}") from None
    return path, cls


def _shadows(module: str, cls: str, template: str) -> bool:
    """Return whether a name would shadow an installed module, a builtin, or an import of the template."""
    installed = [entry for entry in sys.path if Path(entry or ".").resolve() != Path.cwd()]
    return (
        keyword.iskeyword(module)
        or hasattr(builtins, cls)
        or re.search(rf"^from .*\b{cls}\b", template, re.MULTILINE) is not None
        or module in sys.stdlib_module_names
        or importlib.machinery.PathFinder.find_spec(module, installed) is not None
    )
