"""A new strategy's file: small, complete, and conforming from the first minute."""

from __future__ import annotations

import builtins
import importlib.machinery
import keyword
import re
import sys
from pathlib import Path

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.strategies import registry

TEMPLATE = '''\
"""NAME: a strategy for fedtoll."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.scenarios.statistics import MeanLoss, Statistic
from fedtoll.strategies.base import Report, State, Strategy, Weights, sizes


@dataclass(frozen=True)
class CLASS(Strategy):
    """Part by records, part by loss: p_k = (1 − a) · n_k / n + a · F_k / Σ_j F_j.

    F_k is the mean loss of client k at the broadcast model. It arrives with noise and may be negative,
    so it is taken to be 0.01 at least.

    Parameters
    ----------
    a
        The part by loss, from 0 (FedAvg) to 1.
    """

    a: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.a <= 1:
            raise ValueError(f"a = {self.a}: must be from 0 to 1")

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """What every client is asked for in every round, clipped, noised and charged to its ε."""
        return (MeanLoss(clip=1.0),)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return one weight for each report (0 or more, sum 1), and the memory for the next round."""
        loss = np.maximum([r.statistics["mean_loss"].value for r in reports], 0.01)
        return (1 - self.a) * sizes(reports) + self.a * loss / loss.sum(), state
'''


def write(name: str, folder: Path) -> tuple[Path, str]:
    """Write a new strategy's file.

    Parameters
    ----------
    name
        Small letters and digits, with hyphens between words: ``my-strategy`` makes ``my_strategy.py``
        with the class ``MyStrategy``.
    folder
        Where to; it is made if it does not exist.

    Returns
    -------
    tuple
        The file and the name of its class.

    Raises
    ------
    ScenarioError
        A bad name, one that is taken, or a file that exists or cannot be written: one line.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ScenarioError(
            f"new-strategy {name!r}: must be small letters, digits and hyphens between, e.g. 'my-strategy'"
        )
    if name in {known.replace("_", "-") for known in registry.names()}:
        raise ScenarioError(
            f"new-strategy {name!r}: a strategy of this name is installed already; choose another name"
        )
    module, cls = name.replace("-", "_"), "".join(word.capitalize() for word in name.split("-"))
    path = folder / f"{module}.py"
    if path.exists() or path.is_symlink():
        raise ScenarioError(f"new-strategy {name!r}: {path} exists, and is left as it is")
    if _hides(module, cls):
        raise ScenarioError(
            f"new-strategy {name!r}: {module} and {cls} would hide what Python or the file itself needs; "
            "choose another name"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.replace("CLASS", cls).replace("NAME", name))
    except OSError as error:
        raise ScenarioError(f"new-strategy {name!r}: {path} cannot be written: {error.strerror}") from None
    return path, cls


def _hides(module: str, cls: str) -> bool:
    """Whether a name would stand before an installed module, a builtin, or what the template imports."""
    installed = [entry for entry in sys.path if Path(entry or ".").resolve() != Path.cwd()]
    return (
        keyword.iskeyword(module)
        or hasattr(builtins, cls)
        or re.search(rf"^from .*\b{cls}\b", TEMPLATE, re.MULTILINE) is not None
        or module in sys.stdlib_module_names
        or importlib.machinery.PathFinder.find_spec(module, installed) is not None
    )
