# SPDX-License-Identifier: Apache-2.0
"""verl's config objects, and the functions that a config names."""

from __future__ import annotations

from typing import Any


def as_dataclass(node: Any) -> Any:
    """A section of verl's config as the dataclass that its workers get."""
    from verl.utils.config import omega_conf_to_dataclass

    return omega_conf_to_dataclass(node)


def load_function(path: str, name: str) -> Any:
    """A function by file or ``pkg://module``, and name; raises whatever its module raises."""
    from verl.utils.import_utils import load_extern_object

    return load_extern_object(module_path=path, object_name=name)
