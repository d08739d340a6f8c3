"""What is published: a wheel with the shipped codecs and type information inside, that works where nothing else is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import nextmem_agents

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
LOWEST = ("encryption", "langchain", "llama-index", "train", "eval")
PACKAGES = {"nextmem_agents", "langchain_nextmem", "llama_index_nextmem"}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and source distribution, built with what is installed: no builder is downloaded."""
    pytest.importorskip("hatchling", reason="the build backend is in the extra dev")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


def test_the_wheel_holds_the_packages_the_codecs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    for codec in ("mini", "mini-dense", "mini-16"):
        for file in ("nextmem.json", "model.safetensors", "tokenizer.json", "config.json", "README.md"):
            assert f"nextmem_agents/checkpoints/{codec}/{file}" in names
    assert not [
        name for name in names if re.search(r"(^|/)(tests?|benchmarks|examples|docs|__pycache__)/", name)
    ]
    assert wheel.stat().st_size < 46_000_000


def test_the_version_comes_from_one_place(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        fields = Parser().parsestr(archive.read(metadata).decode())
    assert fields["Version"] == nextmem_agents.__version__
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert fields["Requires-Python"] == ">=3.10"
    said = {each.rpartition(" ")[2] for each in fields.get_all("Classifier", []) if "Python :: 3." in each}
    assert said == {"3.10", "3.11", "3.12", "3.13"}


def test_the_lowest_versions_that_are_tested_are_the_lowest_that_are_declared() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(each for name in LOWEST for each in extras[name])]
    pins = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8")
    pinned = {
        name.lower(): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", pins, re.MULTILINE)
    }
    for requirement in declared:
        name, floor = re.match(r"([\w.-]+)(?:\[.*\])?>=([\d.]+)", requirement).groups()  # type: ignore[union-attr]
        if name != "torch":  # of which one version can be had without CUDA
            found = pinned[name.lower()].split(".")
            assert found[: len(floor.split("."))] == floor.split("."), (
                f"{requirement}: {pinned[name.lower()]}"
            )


def test_the_source_distribution_builds_the_same_and_carries_no_measurement_data(dist: Path) -> None:
    (found,) = dist.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        tops = {"/".join(name.split("/")[1:2]) for name in archive.getnames()}
    assert {"nextmem_agents", "integrations", "pyproject.toml", "README.md", "LICENSE"} <= tops
    assert not tops & {"runs", ".venv", "dist", "shared"}


def test_installed_alone_it_prints_what_readme_says(wheel: Path, tmp_path: Path) -> None:
    # A clean environment but for the dependencies, which are read from this one: torch is a gigabyte.
    venv.create(tmp_path / "clean", with_pip=False, symlinks=True)
    (site,) = (tmp_path / "clean").glob("lib/python*/site-packages")
    python = str(tmp_path / "clean" / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-compile", str(wheel)], check=True, capture_output=True)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    session = re.search(r"^```python\n(>>>.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert session is not None
    (tmp_path / "session.txt").write_text(session[1], encoding="utf-8")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "NEXTMEM_HOME": str(tmp_path / "home"),
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    imported = run(python, "-c", "import nextmem_agents; print(nextmem_agents.__file__)").strip()
    assert Path(imported).is_relative_to(site)
    run(python, "-m", "doctest", "-o", "NORMALIZE_WHITESPACE", "-o", "ELLIPSIS", "session.txt")
    assert nextmem_agents.__version__ in run(str(Path(python).with_name("nextmem")), "--version")
