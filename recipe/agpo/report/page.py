# SPDX-License-Identifier: Apache-2.0
"""The page: one HTML file that contains its style, script and data, without external files."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from recipe.agpo.report import board, charts, evidence, panels
from recipe.agpo.report.health import findings
from recipe.agpo.report.read import Run
from recipe.agpo.report.style import style
from recipe.agpo.report.text import visible

HERE = Path(__file__).parent
NAMED = 3  # more runs than that are not named in the title


def page(runs: Sequence[Run], refresh: float | None = None) -> str:
    """The report on some runs. The same files give the same page, byte by byte.

    Args:
        runs: one or several.
        refresh: seconds after which a browser loads the page again; None: never.
    """
    found = [findings(run) for run in runs]
    badges = panels.badges(runs)
    script = (HERE / "page.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=", ".join(run.name for run in runs) if len(runs) <= NAMED else f"{len(runs)} runs",
            refresh=refresh,
            policy=_policy(script),
            style=Markup(style()),
            script=Markup(script),
            sizes=charts,
            badges=badges,
            several=len(runs) > 1,
            cards=board.cards(runs, badges, found),
            about_checks=board.ABOUT,
            advice=board.advice(badges, found),
            rows=board.rows(found),
            sections=panels.sections(runs),
            about_prompts=evidence.PROMPTS,
            prompts=[evidence.prompts(run) for run in runs],
            about_samples=evidence.SAMPLES,
            runs=runs,
            about_files=evidence.files_note(runs),
            missing=[evidence.missing(run) for run in runs],
        )
    )


def _environment() -> Environment:
    """Everything is escaped, and what would be invisible is spelt out, except for our own markup."""
    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _policy(script: str) -> str:
    """Content policy: no request, and no script but ours, so that text that was not escaped cannot be executed."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
