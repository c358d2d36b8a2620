# SPDX-License-Identifier: Apache-2.0
"""The page: one HTML file that contains its style, script and data, without external files."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from recipe.agpo.report import board, evidence
from recipe.agpo.report.health import findings
from recipe.agpo.report.panels import Section, sections
from recipe.agpo.report.read import Run
from recipe.agpo.report.text import escape

HERE = Path(__file__).parent
NAMED = 3  # more runs than that are not named in the title


def page(runs: Sequence[Run]) -> str:
    """The report on some runs. The same files give the same page, byte by byte."""
    found = [findings(run) for run in runs]
    parts = [
        ("checks", "Checks", board.ABOUT, board.checks(runs, found)),
        *((part.name, part.title, part.note, _panels(part, runs)) for part in sections(runs)),
        ("prompts", "Prompts", evidence.PROMPTS, evidence.prompts(runs)),
        ("samples", "Samples", evidence.SAMPLES, evidence.samples(runs)),
        ("files", "Files", evidence.files_note(runs), evidence.files(runs)),
    ]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _, _ in parts)
    names = escape(", ".join(run.name for run in runs) if len(runs) <= NAMED else f"{len(runs)} runs")
    script, css = ((HERE / name).read_text(encoding="utf-8") for name in ("page.js", "style.css"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{names} · AGPO report</title><style>{css}</style></head><body>"
        f'<header><p class="eyebrow">AGPO training report</p><h1>{names}</h1></header>'
        f'<nav class="scroll" aria-label="Sections">{links}</nav>'
        f'<main><div class="runs">{board.cards(runs, found)}</div>{"".join(_section(*part) for part in parts)}</main>'
        f"<script>{script}</script></body></html>\n"
    )


def _policy(script: str) -> str:
    """Content policy: no request, and no script but ours, so that text that was not escaped cannot be executed."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"


def _section(name: str, title: str, note: str, body: str) -> str:
    about = f'<div class="about"><h2>{escape(title)}</h2><p>{escape(note)}</p></div>'
    return f'<section id="{name}">{about}<div class="body">{body}</div></section>'


def _panels(part: Section, runs: Sequence[Run]) -> str:
    """With one run, its own panels come first, then the shared ones, in one grid."""
    if len(runs) == 1:
        own = "".join(panel for panels in part.by_run for panel in panels)
        return f'<div class="panels">{own}{"".join(part.shared)}</div>'
    body = f'<div class="panels">{"".join(part.shared)}</div>'
    for i, panels in enumerate(part.by_run):
        shown = f'<div class="panels">{"".join(panels)}</div>' if panels else '<p class="none">No such controller.</p>'
        body += f"<h3>{board.badge(runs, i)}</h3>{shown}"
    return body
