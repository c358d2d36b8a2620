# SPDX-License-Identifier: Apache-2.0
"""The Dockerfiles, read without docker: what they copy exists, and their pins are those of the project."""

from __future__ import annotations

import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
KNOWN = {"FROM", "RUN", "ENV", "WORKDIR", "COPY", "CMD"}


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, rest) with continuation lines joined and comments left out."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in joined.splitlines() if line.strip()]


def uv_version() -> str:
    return re.search(r'^AGPO_UV_VERSION="(.+)"$', (ROOT / "scripts/lib/env.sh").read_text(), flags=re.M)[1]  # type: ignore[index]


def test_both_are_there() -> None:
    assert [path.name for path in FILES] == ["Dockerfile.cpu", "Dockerfile.gpu"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_instructions_and_paths(path: Path) -> None:
    found = instructions(path)
    assert found[0][0] == "FROM" and {name for name, _ in found} <= KNOWN
    image, _, tag = found[0][1].partition(":")
    assert image and re.search(r"\d", tag), "a base image without a version changes under us"
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name, rest in found:
        if name == "COPY":
            *sources, _ = shlex.split(rest)
            for source in sources:
                assert (ROOT / source).exists(), source
                assert not any(fnmatch(source, pattern) for pattern in ignored), f"{source} is in .dockerignore"
        if name in ("RUN", "CMD"):
            for script in re.findall(r"scripts/[\w./]+\.sh", rest):
                assert (ROOT / script).is_file(), script
            for version in re.findall(r"\buv==([\d.]+)", rest):
                assert version == uv_version()
            for extra in re.findall(r"--extra (\w+)", rest):
                assert extra in PROJECT["optional-dependencies"], extra


def test_the_python_of_each_image_is_one_that_the_package_supports() -> None:
    cpu, gpu = (instructions(path) for path in FILES)
    assert cpu[0][1].startswith("python:3.11"), "the lock is for Python 3.11"
    pythons = set(re.findall(r"python(3\.\d+)", " ".join(rest for _, rest in gpu)))
    supported = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c}
    assert len(pythons) == 1 and pythons <= supported


def test_the_gpu_image_takes_its_pins_from_the_project() -> None:
    """No version of verl, torch or vLLM is written in the Dockerfile: there would be two truths."""
    text = " ".join(rest for _, rest in instructions(ROOT / "docker/Dockerfile.gpu"))
    assert "-r pyproject.toml --extra gpu" in text
    assert not re.search(r"\b(verl|torch|vllm|transformers)(\[\w+\])?==", text)
    gpu = PROJECT["optional-dependencies"]["gpu"]
    assert "verl[vllm]==0.9.1" in gpu


def test_the_environment_of_the_cpu_image_is_made_from_what_is_copied_before() -> None:
    """env.sh reads these files; a later COPY must not change its stamp, or it would install again at each start."""
    found = instructions(ROOT / "docker/Dockerfile.cpu")
    made = next(i for i, (name, rest) in enumerate(found) if name == "RUN" and "env.sh" in rest)
    copied = {source for name, rest in found[:made] if name == "COPY" for source in shlex.split(rest)[:-1]}
    read = set(re.findall(r"\$AGPO_ROOT/([\w./-]+)", (ROOT / "scripts/lib/env.sh").read_text()))
    needed = read - {".venv", "requirements/"}
    assert needed and all(any(path == c or path.startswith(f"{c}/") for c in copied) for path in needed), (
        needed - copied
    )
    assert {"agpo_core", "recipe"} <= copied, "the project itself is installed there"
