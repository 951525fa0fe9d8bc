"""The container files: paths, commands and options exist. No container is started here."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from fedtoll.commands.run import run
from fedtoll.scenarios.read import read

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, with continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line.strip()]


def options(command: str) -> set[str]:
    """Return the options that a command of this environment has."""
    path = Path(sys.executable).parent / command
    assert path.exists(), command
    shown = subprocess.run([path, "--help"], capture_output=True, text=True, check=True, timeout=300).stdout
    return set(re.findall(r"--[a-z][a-z-]+", shown))


def test_the_dockerfile_has_known_instructions_in_a_possible_order():
    names = [name for name, _ in instructions()]
    assert set(names) <= {"FROM", "RUN", "ENV", "WORKDIR", "COPY", "CMD"}
    assert names[0] == "FROM"
    assert names[-1] == "CMD"
    assert dict(instructions())["FROM"] == "python:3.11-slim"
    assert [name for name in names if name in {"FROM", "CMD"}] == ["FROM", "CMD"]


def test_the_dockerfile_makes_targets_of_the_makefile():
    found = re.findall(
        r'make"?,? "?([.\w/]+)', " ".join(text for _, text in instructions() if "make" in text)
    )
    targets = [t.replace(".venv", "$(VENV)") for t in found if t not in {"&&"}]
    assert "demo" in targets
    assert "$(VENV)/.installed" in targets
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.M), target


def test_the_dockerfile_copies_what_is_here_and_switches_telemetry_off():
    for name, text in instructions():
        if name == "COPY":
            assert all((ROOT / source).exists() for source in text.split()[:-1])
    environment = dict(
        pair.split("=", 1) for name, text in instructions() if name == "ENV" for pair in text.split()
    )
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    ignored = (ROOT / ".dockerignore").read_text().split()
    for needed in ("src", "pyproject.toml", "Makefile", "constraints.txt", "README.md", "examples"):
        assert needed not in ignored
        assert (ROOT / needed).exists()


def test_a_superlink_and_three_supernodes():
    assert list(SERVICES) == ["superlink", "supernode-0", "supernode-1", "supernode-2"]
    for service in SERVICES.values():
        assert set(service) <= {"build", "image", "depends_on", "command"}
        assert service["image"] == "fedtoll"
        assert all(other in SERVICES for other in service.get("depends_on", ()))
        assert (ROOT / service.get("build", ".") / "Dockerfile").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["flower-superlink", "flower-supernode"])
def test_the_options_of_every_service_exist(command):
    known = options(command)
    used = [shlex.split(s["command"]) for s in SERVICES.values() if s["command"].split()[0] == command]
    assert used
    for words in used:
        assert {word for word in words if word.startswith("--")} <= known


def test_the_nodes_reach_the_superlink_and_are_all_clients():
    superlink = shlex.split(SERVICES["superlink"]["command"])
    port = superlink[superlink.index("--port") + 1]
    clients = []
    for name, service in SERVICES.items():
        if name != "superlink":
            words = shlex.split(service["command"])
            assert words[words.index("--superlink") + 1] == f"superlink:{port}"
            config = dict(pair.split("=") for pair in words[words.index("--node-config") + 1].split())
            clients.append(int(config["partition-id"]))
    scenario = read(str(ROOT / "examples/three-nodes.toml"))
    assert isinstance(scenario.partition.clients, dict)
    assert clients == list(range(sum(scenario.partition.clients.values())))


def test_the_command_on_the_page_fits():
    page = (ROOT / "docs/supernodes.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^\$ docker compose exec (.+)$", page, re.M)
    service, *words = shlex.split(line)
    assert service in SERVICES
    assert words[:2] == ["fedtoll", "run"]
    assert (ROOT / words[2]).exists()
    for word in words[3:]:
        if word.startswith("--"):
            assert word[2:].replace("-", "_") in run.__annotations__
