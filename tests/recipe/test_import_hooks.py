# SPDX-License-Identifier: Apache-2.0
"""Callbacks after an import, without importing anything early."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from recipe.agpo.verl_api import import_hooks
from recipe.agpo.verl_api.import_hooks import on_import

NAMES = ("agpo_hook_a", "agpo_hook_b", "agpo_hook_package", "agpo_hook_package.inner")


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "agpo_hook_a.py").write_text("VALUE = 1\n")
    (tmp_path / "agpo_hook_b.py").write_text("from agpo_hook_a import VALUE\n")
    (tmp_path / "agpo_hook_package").mkdir()
    (tmp_path / "agpo_hook_package" / "__init__.py").write_text("from agpo_hook_package.inner import VALUE\n")
    (tmp_path / "agpo_hook_package" / "inner.py").write_text("VALUE = 2\n")
    yield tmp_path
    for name in NAMES:
        sys.modules.pop(name, None)
        import_hooks._callbacks.pop(name, None)


def test_the_callback_runs_once_after_the_module_and_before_its_importers_see_it() -> None:
    seen: list[int] = []

    def change(module: ModuleType) -> None:
        seen.append(module.VALUE)
        module.VALUE = 10

    on_import("agpo_hook_a", change)
    assert seen == [] and "agpo_hook_a" not in sys.modules
    assert importlib.import_module("agpo_hook_b").VALUE == 10
    importlib.import_module("agpo_hook_a")
    assert seen == [1]


def test_a_module_that_is_there_already_is_handled_at_once() -> None:
    importlib.import_module("agpo_hook_a")
    seen: list[str] = []
    on_import("agpo_hook_a", lambda module: seen.append(module.__name__))
    assert seen == ["agpo_hook_a"]


def test_several_callbacks_run_in_order() -> None:
    seen: list[int] = []
    on_import("agpo_hook_a", lambda module: seen.append(1))
    on_import("agpo_hook_a", lambda module: seen.append(2))
    importlib.import_module("agpo_hook_a")
    assert seen == [1, 2]


def test_a_submodule_and_its_package() -> None:
    on_import("agpo_hook_package.inner", lambda module: setattr(module, "VALUE", 3))
    assert importlib.import_module("agpo_hook_package").VALUE == 3


def test_the_module_keeps_its_own_loader() -> None:
    """inspect and pickle ask for it."""
    import inspect

    on_import("agpo_hook_a", lambda module: None)
    module = importlib.import_module("agpo_hook_a")
    assert inspect.getsource(module) == "VALUE = 1\n"
    assert type(module.__spec__.loader).__name__ == "SourceFileLoader"  # type: ignore[union-attr]
    assert importlib.reload(module).VALUE == 1


def test_a_failing_callback_fails_the_import() -> None:
    def fail(module: ModuleType) -> None:
        raise ValueError("not this verl")

    on_import("agpo_hook_a", fail)
    with pytest.raises(ValueError, match="not this verl"):
        importlib.import_module("agpo_hook_a")


def test_a_module_that_does_not_exist_stays_missing() -> None:
    on_import("agpo_hook_missing", lambda module: None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("agpo_hook_missing")
    import_hooks._callbacks.pop("agpo_hook_missing")
