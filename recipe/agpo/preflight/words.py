# SPDX-License-Identifier: Apache-2.0
"""Words for messages: values as a command line writes them, the nearest known name, and lists."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

SHOWN = 60


def shown(value: Any) -> str:
    """A value as on Hydra's command line, cut if it is long."""
    text = "null" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def nearest(word: Any, names: Collection[str], cutoff: float = 0.6) -> str | None:
    """The known name that a misspelt one is most like; None if it is like none."""
    asked = str(word).strip().lower()
    close = difflib.get_close_matches(asked, sorted(names), n=1, cutoff=cutoff)
    return close[0] if close else None


def unknown(key: str, value: Any, names: Collection[str], default: str, effect: str) -> str:
    """The problem of a name that is not among the known ones; the fix is the nearest, or the default."""
    return (
        f"{key}={shown(value)}: {effect}. Known are {', '.join(sorted(names))}. "
        f"Set {key}={nearest(value, names) or default}."
    )


def either(values: Collection[Any]) -> str:
    """``8 or 16``."""
    return " or ".join(str(value) for value in values)
