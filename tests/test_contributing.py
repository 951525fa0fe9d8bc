"""The files for contributors name versions, paths and commands that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra),
]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_the_pinned_versions_are_allowed(requirement):
    wanted = Requirement(requirement)
    assert pins()[canonicalize_name(wanted.name)] in wanted.specifier


def test_pins_are_portable():
    for name, version in pins().items():
        assert re.fullmatch(r"[\w.]+", version), f"{name}: a local version or a path"


def test_pre_commit_uses_the_pinned_ruff():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"rev: v([\d.]+)", hooks) == [pins()["ruff"]]


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    for line in (
        f"version: {PROJECT['version']}",
        f"license: {PROJECT['license']}",
        f"  - name: {PROJECT['authors'][0]['name']}",
    ):
        assert f"\n{line}\n" in citation


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "examples/README.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / page).parent.joinpath(link).exists(), link


def test_contributing_names_files_and_commands_that_exist():
    words = set(re.findall(r"`([^`\n]+)`", CONTRIBUTING)) | set(
        re.findall(r"^\$ (.+?)(?:  +#.*)?$", CONTRIBUTING, re.M)
    )
    paths = {
        part
        for word in words
        for part in re.findall(r"(?:[\w.-]+/)+[\w.-]*|\b[\w-]+\.(?:md|toml|txt)\b", word)
        if "NAME" not in part and not part.startswith((".venv", "build/"))
    }
    assert len(paths) > 20
    for path in paths:
        assert (ROOT / path).exists(), path
    targets = {target for word in words for target in re.findall(r"\bmake ([\w-]+)", word)}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"test", "test-all", "lint", "docs"} <= targets
    for target in targets:
        assert f"\n{target}:" in makefile, target


def test_the_table_of_rooms_is_that_of_the_walls():
    from tests.test_walls import MAY_USE

    rows = re.findall(r"^\| `(?:src/fedtoll/)?(\w+)/` \| .+ \| (.+) \|$", CONTRIBUTING, re.M)
    assert {room for room, _ in rows} == set(MAY_USE)
    above: set[str] = set()
    for room, allowed in rows:
        said = above if allowed == "all above" else set(re.findall(r"`(\w+)`", allowed))
        assert said == MAY_USE[room] - {room}, room
        above.add(room)


def test_ci_runs_the_one_script():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert re.findall(r"run: (.+)", workflow) == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
