# SPDX-License-Identifier: Apache-2.0
"""The rooms of CONTRIBUTING, read from the imports of the files: imports point down, few files know verl."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# From the top down. A module may import what stands below its own line; rooms on one line do not import each other.
ROOMS = (
    ("cli",),
    ("report", "evaluate", "quickstart"),
    ("plugin", "main"),
    ("install",),
    ("preflight",),
    ("plan",),
    ("rollout", "training"),
    ("cpu",),
    ("data", "models"),
    ("rewards",),
    ("verl_api",),
    ("arguments", "run_folder"),
    ("settings", "columns", "processes", "files", "prompts", "palette"),
    ("agpo_core",),
)
LINE = {room: i for i, line in enumerate(ROOMS) for room in line}
# Files outside verl_api/ that import verl or name one of its modules, and why.
KNOW_VERL = {
    "recipe/agpo/install.py": "puts our pieces into verl's modules",
    "recipe/agpo/main.py": "calls verl's entry point",
    "recipe/agpo/cli/doctor.py": "looks at verl's registries, in this process and in a Ray worker",
    "recipe/agpo/cpu/patches.py": "names the modules that a machine without a GPU needs patched",
    "recipe/agpo/cpu/platform.py": "base classes of verl's platform plug-in",
    "recipe/agpo/cpu/weights.py": "base class of verl's weight transfer",
}


def files() -> list[Path]:
    return [p for top in ("recipe/agpo", "agpo_core") for p in sorted((ROOT / top).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path, modules: set[str]) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, inside functions too, with the line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno}: write the import in full"
            for alias in node.names:
                # ``from package import module`` names a module; anything else is a name in one.
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in modules else str(node.module)), node.lineno


def graph(paths: list[Path]) -> dict[str, set[str]]:
    modules = {module_name(path) for path in paths}
    return {module_name(p): {name for name, _ in imported(p, modules)} & modules for p in paths}


def room(module: str) -> str:
    return module.split(".")[2] if module.startswith("recipe.agpo.") else module.split(".")[0]


def test_every_module_has_a_room() -> None:
    assert {room(m) for m in graph(files())} - {"recipe"} == set(LINE)


def test_no_import_points_up() -> None:
    wrong = []
    for module, targets in graph(files()).items():
        for target in targets:
            ours, theirs = room(module), room(target)
            if ours != theirs and LINE[ours] >= LINE[theirs]:
                wrong.append(f"{module} imports {target}")
    assert wrong == [], "rooms from the top down: " + " > ".join(", ".join(line) for line in ROOMS)


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(graph(files())).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def names_verl(path: Path) -> bool:
    """Whether a file imports verl, or holds the dotted name of one of its modules as a string."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "verl" for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "verl":
            return True
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = node.value.split(".")
            if len(parts) > 2 and parts[0] == "verl" and all(part.isidentifier() for part in parts):
                return True
    return False


def test_only_these_files_know_verl() -> None:
    found = {str(path.relative_to(ROOT)) for path in files() if names_verl(path)}
    outside = {name for name in found if not name.startswith("recipe/agpo/verl_api/")}
    assert outside == set(KNOW_VERL), "move it to recipe/agpo/verl_api/, or say here why it knows verl"


def private_names(path: Path) -> Iterator[str]:
    """Private attributes of anything but the object itself, its bases, and modules and objects of this project."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
            continue
        value = node.value
        own = isinstance(value, ast.Name) and value.id in ("self", "cls")
        base = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "super"
        if not own and not base:
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def test_rollout_and_training_touch_nothing_private_but_their_base_classes() -> None:
    rooms = ("rollout", "training", "preflight", "plan", "install")
    found = [name for path in files() if room(module_name(path)) in rooms for name in private_names(path)]
    assert found == []


def test_the_test_sees_imports_inside_functions_and_circles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.test_rooms.ROOT", tmp_path)
    first, second = tmp_path / "agpo_core" / "a.py", tmp_path / "agpo_core" / "b.py"
    first.parent.mkdir()
    first.write_text("from agpo_core import b\n")
    second.write_text("def late():\n    import agpo_core.a\n\n\nBUFFER = thing._private\nNAME = 'verl.utils.x'\n")
    assert graph([first, second]) == {"agpo_core.a": {"agpo_core.b"}, "agpo_core.b": {"agpo_core.a"}}
    with pytest.raises(CycleError):
        TopologicalSorter(graph([first, second])).prepare()
    assert names_verl(second) and not names_verl(first)
    assert list(private_names(second)) == ["agpo_core/b.py:5: thing._private"]
