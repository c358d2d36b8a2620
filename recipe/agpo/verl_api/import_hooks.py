# SPDX-License-Identifier: Apache-2.0
"""Run a callback right after a module is imported, without importing it ourselves.

verl loads plugins at ``import verl``, in the driver and in every Ray worker. Importing verl's trainer or its
FSDP engine there would add seconds to each of those processes, most of which never use them.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

Callback = Callable[[ModuleType], None]
_callbacks: dict[str, list[Callback]] = {}


class _CallbackLoader(importlib.abc.Loader):
    """Delegates to the real loader, then runs the callbacks of that module."""

    def __init__(self, loader: importlib.abc.Loader, name: str) -> None:
        self._loader, self._name = loader, name

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        # Tools such as inspect read the loader from the spec: leave the real one there.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        for callback in _callbacks.pop(self._name, []):
            callback(module)


class _CallbackFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _callbacks:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _CallbackLoader(spec.loader, name)
                return spec
        return None


_finder = _CallbackFinder()


def on_import(name: str, callback: Callback) -> None:
    """Call ``callback(module)`` once the module is imported; at once if it already is.

    Args:
        name: full dotted module name.
        callback: gets the module object. An exception in it propagates to whoever imports the module.
    """
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if module is not None and not getattr(spec, "_initializing", False):
        callback(module)
        return
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _callbacks.setdefault(name, []).append(callback)
