"""The folder that ``flwr run`` takes."""

from __future__ import annotations

from pathlib import Path

_APP = """\
[project]
name = "fedtoll-app"
version = "{version}"
license = {{ text = "Apache-2.0" }}
dependencies = []

[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[tool.flwr.app]
publisher = "fedtoll"
fab-include = ["*.py"]

[tool.flwr.app.components]
serverapp = "fedtoll.server.app:app"
clientapp = "fedtoll.clients.app:app"

[tool.flwr.app.config]
scenario = ""
strategy = ""
epsilon = "inf"
seed = 0
out = ""
"""


def write_app(folder: Path, version: str) -> Path:
    """Write the folder that ``flwr run`` takes; the app itself is the installed fedtoll."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(_APP.format(version=version))
    (folder / "marker.py").write_text('"""The app itself is the installed fedtoll."""\n')
    return folder
