"""What is shipped: sdist, wheel, and a wheel installed apart."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import fedtoll

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_one_version():
    assert PROJECT["project"]["version"] == fedtoll.__version__
    assert f"## {fedtoll.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_readme_prints_commands_that_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in ("demo", "test", "lint", "bench", "clean"):
        assert f"\n{target}:" in makefile
    assert "make demo" in readme
    assert "make test" in readme


@pytest.mark.slow
def test_sdist_wheel_and_a_separate_installation(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (sdist,) = tmp_path.glob("*.tar.gz")
    (wheel,) = tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
        assert any(n.endswith("scenarios/library/adult-race.toml") for n in archive.getnames())
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names} == {"fedtoll", f"fedtoll-{fedtoll.__version__}.dist-info"}
    for data in (
        "py.typed",
        "scenarios/library/adult-race.toml",
        "scenarios/library/findings/poor-become-poorer.toml",
        "report/page.html",
        "findings/findings.html",
    ):
        assert f"fedtoll/{data}" in names

    apart = tmp_path / "apart"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", apart, wheel],
        check=True,
        capture_output=True,
    )
    assert not (apart / "server").exists()
    code = (
        "import sys, pkgutil, importlib\n"
        f"sys.path.insert(0, {str(apart)!r})\n"
        "import fedtoll\n"
        f"assert fedtoll.__file__.startswith({str(apart)!r}), fedtoll.__file__\n"
        "names = [m.name for m in pkgutil.walk_packages(fedtoll.__path__, 'fedtoll.')]\n"
        "assert len(names) > 30, names\n"
        "[importlib.import_module(n) for n in names]\n"
        "from fedtoll.scenarios.read import library\n"
        "assert 'adult-race' in library()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
