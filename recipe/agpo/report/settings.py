# SPDX-License-Identifier: Apache-2.0
"""The settings of a run that the page shows, read from JSON.

The settings class itself (``recipe.agpo.settings``) needs torch, and the report is read where there is none. A value
that is not recorded is None: the page then has no target to compare with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recipe.agpo.report.jsonl import finite


@dataclass(frozen=True)
class Settings:
    """``algorithm.agpo`` as recorded."""

    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Any) -> Settings:
        """From a JSON value; anything but an object gives empty settings."""
        return cls(values if isinstance(values, Mapping) else {})

    def __bool__(self) -> bool:
        return bool(self.values)

    @property
    def preset(self) -> str:
        """Its name; empty if it is not recorded."""
        return str(self.values.get("preset") or "")

    def on(self, section: str) -> bool:
        """Whether a controller is switched on."""
        part = self.values.get(section)
        return isinstance(part, Mapping) and part.get("enabled") is True

    def number(self, key: str) -> float | None:
        """A number by its key, ``section.name`` or ``name``."""
        section, _, name = key.rpartition(".")
        part = self.values.get(section) if section else self.values
        return finite(part.get(name)) if isinstance(part, Mapping) else None
