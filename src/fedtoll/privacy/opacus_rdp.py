"""Opacus's module of Rényi divergences, loaded without the rest of Opacus, which takes seconds to import."""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

_RDP = "opacus.accountants.analysis.rdp"


@lru_cache(maxsize=1)
def load() -> Any:
    """Return the module, loaded once."""
    if (loaded := sys.modules.get(_RDP)) is not None:
        return loaded
    package = importlib.util.find_spec("opacus")
    if package is None or package.origin is None:
        raise ImportError("opacus is not installed")
    file = Path(package.origin).parent.joinpath("accountants", "analysis", "rdp.py")
    spec = importlib.util.spec_from_file_location("fedtoll_opacus_rdp", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
