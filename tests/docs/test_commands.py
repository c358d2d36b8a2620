# SPDX-License-Identifier: Apache-2.0
"""Every code block of README, docs and examples: run, composed, parsed or resolved, so that none can rot."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("README.md"))]
BLOCKS = [
    (page.relative_to(ROOT).as_posix(), language, block)
    for page in PAGES
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)
]
# Blocks without a language: shown output, and lines of overrides, which other tests compose.
LANGUAGES = {"bash", "python", "py", ""}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
STACKS = ("slime", "skyrl", "roll")


def commands() -> list[tuple[str, str]]:
    found = []
    for page, language, block in BLOCKS:
        if language == "bash":
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page, words) for line in lines if (words := re.sub(r"(^|\s)#.*", "", line).strip())]
    return found


COMMANDS = [(page, part) for page, line in commands() for part in re.split(r"\s+&&\s+", line)]


def test_blocks_were_found() -> None:
    assert len(BLOCKS) > 30 and len(COMMANDS) > 30
    assert {language for _, language, _ in BLOCKS} <= LANGUAGES


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{p}: {c[:60]}" for p, c in COMMANDS])
def test_commands(page: str, command: str) -> None:
    words = shlex.split(command)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "agpo":
        parses(rest)
    elif program in ("bash", "sbatch", "source"):
        for script in [word for word in rest if word.endswith((".sh", ".sbatch"))]:
            assert parses_in_bash(script), script
    elif program == "pytest":
        assert all((ROOT / word).exists() for word in rest if not word.startswith("-")), command
    elif program == "pip" and rest[0] == "install":
        installs(rest[1:])
    elif program == "python":
        takes(rest)
    else:
        # Python's own ways into a virtual environment.
        assert command in ("python3.11 -m venv agpo", ". agpo/bin/activate"), f"{page}: nobody tests {command!r}"


@cache
def parses_in_bash(script: str) -> bool:
    return subprocess.run(["bash", "-n", ROOT / script], check=False).returncode == 0


def parses(arguments: list[str]) -> None:
    from recipe.agpo.cli import _parser

    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            _parser().parse_args(arguments)
    except SystemExit:
        pytest.fail(f"agpo {' '.join(arguments)}: {heard.getvalue()}")


def installs(arguments: list[str]) -> None:
    names = [word for word in arguments if not word.startswith(("-", "."))]
    wanted = [Requirement(name) for name in names]
    for editable in re.findall(r"^\.\[(.+)\]$", "\n".join(arguments), flags=re.M):
        wanted.append(Requirement(f"agpo-verl[{editable}]"))
    pinned = (ROOT / "requirements/trl.txt").read_text() + str(EXTRAS)
    for requirement in wanted:
        assert requirement.extras <= set(EXTRAS), requirement
        assert not requirement.specifier or str(requirement) in pinned, f"{requirement} is not what is tested"


def takes(arguments: list[str]) -> None:
    """The script or module exists and knows the flags; hydra's overrides are composed in test_docs.py."""
    if arguments[0] == "-m":
        name, rest = arguments[1], arguments[2:]
        path = ROOT / f"{name.replace('.', '/')}.py"
        if name.startswith("verl."):
            assert importlib.util.find_spec(name) is not None, name
            return
    else:
        path, rest = ROOT / arguments[0], arguments[1:]
    assert path.is_file(), path
    flags = [word for word in rest if word.startswith("--")]
    if not flags and "argparse" not in path.read_text(encoding="utf-8"):
        return  # a script without options: that it exists is all there is to check
    shown = help_of(*arguments[: 2 if arguments[0] == "-m" else 1])
    missing = [flag for flag in flags if flag not in shown]
    assert not missing, (path, missing)


@cache
def help_of(*program: str) -> str:
    """What ``python PROGRAM --help`` prints; once for all commands that use the program."""
    environment = dict(os.environ)
    if program[-1].startswith("examples.trl"):
        if not os.environ.get("AGPO_TRL"):
            pytest.skip("TRL is not there: bash scripts/run_tests.sh installs it, or set AGPO_TRL=FOLDER")
        # A folder of its own, in which TRL's versions come first.
        environment["PYTHONPATH"] = os.environ["AGPO_TRL"]
    shown = subprocess.run(
        [sys.executable, *program, "--help"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


@pytest.mark.parametrize("block", [b for _, language, b in BLOCKS if language == "py"])
def test_fragments_name_what_is_there(block: str) -> None:
    """Fragments of other stacks' code cannot run here; what they take from us must exist."""
    ours = {name for stack in STACKS for name in vars(importlib.import_module(f"examples.stacks.{stack}"))}
    ours |= set(vars(importlib.import_module("examples.stacks.probe_gate")))
    tree = ast.parse(block)
    bases = [node.bases[0] for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    named = {base.id for base in bases if isinstance(base, ast.Name)}
    named |= {arg.id for call in used for arg in call.args if isinstance(arg, ast.Name) and arg.id.startswith("agpo")}
    assert named and named <= ours, named - ours
