"""Compare the nodes of a cluster with the machine of the command, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

COMPARED = ("fedtoll", "torch", "opacus", "flwr", "numpy")
"""The packages whose version must be the same everywhere, because it can change results."""

Found = dict[str, str]


def inspection() -> Callable[..., tuple[Found, str]]:
    """Return a function that a node runs to say what it has, and what it lacks.

    It is sent as code, since the node may have another fedtoll or none. It takes the pickled parcel and the
    versions that are expected, and returns those of Python and of each package, and a reason why the node
    cannot be used, or an empty string. The parcel is opened only if the versions are as expected.
    """
    names = COMPARED

    def inspect(parcel: bytes = b"", expected: Found | None = None) -> tuple[Found, str]:
        import hashlib
        import importlib.metadata
        import importlib.util
        import os
        import pickle
        import platform
        from pathlib import Path

        found = {"Python": platform.python_version()}
        for name in names:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = ""
        if found["fedtoll"] and (spec := importlib.util.find_spec("fedtoll")):
            digest = hashlib.sha256()
            for folder in spec.submodule_search_locations or ():
                for file in sorted(Path(folder).rglob("*.py")):
                    digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
                    digest.update(file.read_bytes())
            found["fedtoll"] += f" (sources {digest.hexdigest()[:8]})"
        if not parcel or found != expected:
            return found, ""
        os.environ["OMP_NUM_THREADS"] = "1"
        from fedtoll.cluster.parcel import lacking

        return found, lacking(pickle.loads(parcel))

    return inspect


def difference(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Return how a node's versions differ from those here, in a few words; empty if they do not.

    Examples
    --------
    >>> difference({"torch": "2.9.0", "numpy": "2.4.0"}, {"torch": "2.8.0", "numpy": "2.4.0"})
    'has torch 2.8.0, here is 2.9.0'
    >>> difference({"torch": "2.9.0"}, {"torch": ""})
    'has no torch, here is 2.9.0'
    """
    differing = [name for name in here if here[name] != there.get(name, "")]
    return ", ".join(
        f"has {f'{name} {there[name]}' if there.get(name) else f'no {name}'}, here is {here[name]}"
        for name in differing
    )


def names(nodes: list[dict[str, Any]]) -> dict[str, str]:
    """Return a name of each node for people, by its id: host and address, with the id if two are the same."""
    shown = {
        node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in nodes
    }
    several = len(set(shown.values())) < len(shown)
    return {key: f"{name}, {key[:8]}" if several else name for key, name in shown.items()}
