"""Files that the machine of the command sent to this process, which may run on another machine.

They stay in memory, under the paths that they have there, and take precedence over files here: a private
table is never written to another machine's disk.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

PREFIX = "_fedtoll_"
"""Begins the name of the module that a user's file becomes."""

_files: dict[str, bytes] = {}
_modules: dict[str, str] = {}


def receive(files: Mapping[str, bytes], modules: Mapping[str, str]) -> None:
    """Make files available in this process.

    Parameters
    ----------
    files
        The content of each file, by its absolute path.
    modules
        The path of each module's source among these files, by the name under which it is imported; empty for
        a package without ``__init__.py``.
    """
    _files.update(files)
    _modules.update(modules)
    if _modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


@contextmanager
def held(path: Path, content: bytes) -> Iterator[None]:
    """Make a file available to the block of this process, under a path where it may be written later."""
    _files[str(path)] = content
    try:
        yield
    finally:
        del _files[str(path)]


def received(path: Path) -> bool:
    """Return whether a file was sent to this process."""
    return str(path) in _files


def open_file(path: Path) -> io.BufferedReader | io.BytesIO:
    """Open a file for reading bytes: the one that was sent, else the one on this machine."""
    content = _files.get(str(path))
    return path.open("rb") if content is None else io.BytesIO(content)


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file: of the one that was sent, else of the one on this machine."""
    with open_file(path) as file:
        return file.read()


def spec_of(name: str, path: Path, source: bytes) -> importlib.machinery.ModuleSpec | None:
    """Return how the source of a Python file is imported under a name; ``None`` if it cannot be."""
    return importlib.util.spec_from_file_location(name, path, loader=_Loader(name, path, source))


def load(path: Path, kind: str) -> Any:
    """Execute a user's Python file, once per version of its source, and return it as a module.

    Parameters
    ----------
    path
        The file: one that was sent, or one on this machine.
    kind
        What it defines, ``strategy`` or ``model``: part of the module's name.

    Raises
    ------
    ImportError
        If it is not a Python file.
    Exception
        What the file raises.
    """
    return _execute(path, read_bytes(path), kind)


@lru_cache(maxsize=64)
def _execute(path: Path, source: bytes, kind: str) -> Any:
    name = f"{PREFIX}{kind}_{hashlib.sha256(str(path).encode() + source).hexdigest()[:16]}"
    spec = spec_of(name, path, source)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = module_from_spec(spec)
    # The dataclass decorator looks up the module by name while the file is executed.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class _Loader(SourceLoader):
    """Executes these bytes, whatever the file holds by now. They are never cached as bytecode."""

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        self._name = name
        self._path = path
        self._source = source

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_data(self, path: Any) -> bytes:
        return self._source

    def is_package(self, fullname: str) -> bool:
        return self._path.name == "__init__.py" and fullname == self._name


class _Finder(MetaPathFinder):
    """Finds the modules that were sent."""

    def find_spec(
        self, fullname: str, path: Any, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        file = _modules.get(fullname)
        if file is None:
            return None
        if not file:
            return importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        return spec_of(fullname, Path(file), read_bytes(Path(file)))
