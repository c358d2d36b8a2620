# SPDX-License-Identifier: Apache-2.0
"""The style of the page: ``style.css`` with the colours of ``recipe.agpo.palette`` as variables."""

from __future__ import annotations

from pathlib import Path

from recipe.agpo.palette import PAGE, SERIES, SERIES_DARK, STACKS

STYLE = Path(__file__).parent / "style.css"


def style() -> str:
    """The whole style sheet."""
    classes = " ".join(f".{name} {{ --c: var(--{name}); }}" for name in _variables(0) if name not in PAGE)
    return (
        f":root {{ color-scheme: light dark; {_declared(0)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_declared(1)} }} }}\n"
        f"{classes}\n{STYLE.read_text(encoding='utf-8')}"
    )


def _variables(scheme: int) -> dict[str, str]:
    """Name and colour of every variable; 0: light, 1: dark."""
    found = {name: pair[scheme] for name, pair in PAGE.items()}
    found |= {f"r{i}": colour for i, colour in enumerate((SERIES, SERIES_DARK)[scheme])}
    return found | {f"{letter}{i}": pair[scheme] for letter, pairs in STACKS.items() for i, pair in enumerate(pairs)}


def _declared(scheme: int) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in _variables(scheme).items())
