# SPDX-License-Identifier: Apache-2.0
"""What `pip install` gives: built from a copy of the tree, installed apart from it, imported, run, type-checked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import agpo_core

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
UV = [sys.executable, "-m", "uv"]
LEFT_OUT = (".*", "runs", "outputs", "build", "dist", "*.egg-info", "__pycache__", "tests", "docs")
USE = """
import torch, agpo_core
from agpo_core import AGPOConfig, ControllerState, decide_temperature, probe_statistics
assert "site-packages" in agpo_core.__file__, agpo_core.__file__
config = AGPOConfig()
stats = probe_statistics(torch.tensor([[1.0, 0.0, 1.0, 0.0]]), config=config)
assert decide_temperature(stats, ControllerState.initial(config), config, base=1.0).tau.tolist() == [1.0]
print(agpo_core.__version__)
"""
TYPED = """
from agpo_core import AGPOConfig, ControllerState, decide_clip, probe_statistics
reveal_type(ControllerState.initial(AGPOConfig()).step_size.scale)
decide_clip("not statistics")
"""


def run(*command: str | Path, ok: bool = True, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command far from the source tree, with nothing of this environment but its PATH."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "AGPO_", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True, check=False, timeout=300)
    assert not ok or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, sdist); the wheel is made from the sdist, so that both hold what is needed."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "tree", ignore=shutil.ignore_patterns(*LEFT_OUT))
    out = folder / "dist"
    where = ("--python", sys.executable, "-o", out, folder / "tree")
    run(*UV, "build", "--offline", "--no-build-isolation", *where, cwd=folder)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def empty(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("empty")
    run(*UV, "venv", "--quiet", "--python", sys.executable, folder / "venv", cwd=folder)
    return installed(built[0], folder / "venv/bin/python", folder)


def installed(wheel: Path, python: Path, cwd: Path) -> Path:
    run(*UV, "pip", "install", "--quiet", "--offline", "--no-deps", "--reinstall", "--python", python, wheel, cwd=cwd)
    return python


@pytest.fixture(scope="module")
def core(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, torch and what torch needs."""
    python = os.environ.get("AGPO_CORE_PYTHON")
    if not python:
        pytest.skip("no environment with torch alone: run scripts/run_tests.sh, which makes it (AGPO_CORE_PYTHON)")
    return installed(built[0], Path(python), tmp_path_factory.mktemp("core"))


def test_the_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(built[0]).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"agpo_core", "recipe", f"agpo_verl-{PROJECT['version']}.dist-info"}, tops
    assert all(name.startswith("recipe/agpo/") for name in names if name.startswith("recipe/"))
    wanted = {
        str(path.relative_to(ROOT))
        for top in ("agpo_core", "recipe/agpo")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert {"agpo_core/py.typed", "recipe/agpo/py.typed", "recipe/agpo/config/qwen14b.yaml"} <= wanted
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_can_be_read_by_a_person(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"} <= names


def test_a_plain_install_asks_for_nothing(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        name = next(n for n in archive.namelist() if n.endswith("METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    needs = metadata.get_all("Requires-Dist") or []
    assert needs and all("extra ==" in need for need in needs)
    assert set(metadata.get_all("Provides-Extra") or []) == {"core", "tools", "cpu", "gpu", "megatron", "trl", "test"}
    assert metadata["License-Expression"] == "Apache-2.0"
    without_stack = [need for need in needs if "extra == 'tools'" in need.replace('"', "'")]
    assert not any(re.match(r"(torch|verl|vllm|ray)\b", need) for need in without_stack)


def test_one_version_everywhere() -> None:
    version = PROJECT["version"]
    assert agpo_core.__version__ == version
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changelog, flags=re.M).group(1) == version  # type: ignore[union-attr]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_torchs_needs_are_those_of_the_lock() -> None:
    """The environment of `core` and the lock name the same versions."""

    def pins(name: str) -> set[str]:
        lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
        return {line.split(" ")[0].lower() for line in lines if "==" in line and not line.startswith("#")}

    assert pins("core.txt") and pins("core.txt") <= pins("cpu.txt")


def test_without_torch_the_import_says_what_to_install(empty: Path, tmp_path: Path) -> None:
    said = run(empty, "-c", "import agpo_core", ok=False, cwd=tmp_path)
    assert said.returncode == 1 and "agpo-verl[core]" in said.stderr and "needs torch" in said.stderr


def test_in_an_empty_environment_the_doctor_says_what_is_missing(empty: Path, tmp_path: Path) -> None:
    said = run(empty.parent / "agpo", "doctor", ok=False, cwd=tmp_path)
    assert said.returncode == 1 and "Traceback" not in said.stdout + said.stderr, said.stdout + said.stderr
    assert "FAIL  verl" in said.stdout and "training cannot start" in said.stdout


def test_agpo_core_needs_torch_and_nothing_else(core: Path, tmp_path: Path) -> None:
    assert run(core, "-c", USE, cwd=tmp_path).stdout.strip() == PROJECT["version"]
    said = run(core.parent / "agpo", "config", cwd=tmp_path).stdout
    assert "drift_target:" in said
    doctor = run(core.parent / "agpo", "doctor", ok=False, cwd=tmp_path)
    assert doctor.returncode == 1 and "Traceback" not in doctor.stdout + doctor.stderr, doctor.stdout + doctor.stderr


def test_types_reach_the_user(core: Path, tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(TYPED, encoding="utf-8")
    said = run(sys.executable, "-m", "mypy", "--python-executable", core, "use.py", ok=False, cwd=tmp_path).stdout
    assert 'Revealed type is "builtins.float"' in said or 'Revealed type is "float"' in said, said
    assert "decide_clip" in said and "missing library stubs" not in said
