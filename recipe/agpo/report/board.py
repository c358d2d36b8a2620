# SPDX-License-Identifier: Apache-2.0
"""The first screen: every run at a glance, how to fix it, and the table of checks."""

from __future__ import annotations

from collections.abc import Sequence

from recipe.agpo.report import measures
from recipe.agpo.report.curves import over
from recipe.agpo.report.health import CHECKS, Finding, Unit, Verdict, overall
from recipe.agpo.report.jsonl import finite
from recipe.agpo.report.panels import mark, style
from recipe.agpo.report.read import Run
from recipe.agpo.report.text import duration, escape, number

SIGNS = {Verdict.OK: "●", Verdict.LOOK: "▲", Verdict.BAD: "■", Verdict.UNKNOWN: "–"}
WORDS = {
    Verdict.OK: "Healthy",
    Verdict.LOOK: "Worth a look",
    Verdict.BAD: "Not healthy",
    Verdict.UNKNOWN: "Nothing measured",
}
VALIDATIONS = 3  # validation sets named in a card
ABOUT = (
    "Each check is one number with stated limits. Recent steps are the last fifth, at least five. The limits are rules "
    "of thumb for where to look."
)


def badge(runs: Sequence[Run], index: int) -> str:
    """A run's colour, letter and name, wherever it is named."""
    letter = f"<b>{mark(index)}</b> " if len(runs) > 1 else ""
    name = f'<span class="name">{escape(runs[index].name)}</span>'
    return f'<span class="badge {style(index)}"><i></i>{letter}{name}</span>'


def cards(runs: Sequence[Run], found: Sequence[Sequence[Finding]]) -> str:
    """Each run at a glance."""
    spent = [points[-1][1] for run in runs if (points := run.tokens()[0])]
    common = min(spent) if len(runs) > 1 and len(spent) == len(runs) else None
    return "".join(_card(runs, i, found[i], common) for i in range(len(runs)))


def _card(runs: Sequence[Run], index: int, found: Sequence[Finding], common: float | None) -> str:
    run = runs[index]
    verdict = overall(found) if run.training else Verdict.UNKNOWN
    word = WORDS[verdict] if run.training else "No training step yet"
    tally = ", ".join(f"{sum(f.verdict is kind for f in found)} {kind.value}" for kind in Verdict)
    facts = [*_facts(run), *(_at(run, common) if common else [])]
    listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return (
        f'<article class="run {verdict.name.lower()}"><h2>{badge(runs, index)}</h2>'
        f'<p class="verdict"><span aria-hidden="true">{SIGNS[verdict]}</span> {word}</p><p class="tally">{tally}</p>'
        f"<dl>{listed}</dl></article>"
    )


def _at(run: Run, tokens: float) -> list[tuple[str, str]]:
    """Accuracy of the last validation within ``tokens``, which every run has spent: a comparison at equal cost."""
    facts = []
    for key in run.keys(measures.ACCURACY)[:VALIDATIONS]:
        within = [value for spent, value in over(run.series(key), run.tokens()[0]) if spent <= tokens]
        if within:
            facts.append((f"{_source(key)} at {number(tokens)} tokens", f"{within[-1]:.3f}"))
    return facts


def _source(key: str) -> str:
    """``val-core/gsm8k/acc/mean@4`` as ``gsm8k mean@4``; the usual mean@1 is left out."""
    return key.removeprefix("val-core/").replace("/acc/mean@1", "").replace("/acc/", " ")


def _facts(run: Run) -> list[tuple[str, str]]:
    facts = [("method", run.method)]
    if "seed" in run.identity:
        facts.append(("seed", str(run.identity["seed"])))
    resumed = f", resumed at {', '.join(map(str, run.starts[1:]))}" if len(run.starts) > 1 else ""
    facts.append(("steps", f"{run.steps}{resumed}"))
    for key in run.keys(measures.ACCURACY)[:VALIDATIONS]:
        values = [value for _, value in run.series(key)]
        if values:
            facts.append((f"accuracy, {_source(key)}", f"{values[0]:.3f} → {values[-1]:.3f}, best {max(values):.3f}"))
    tokens, estimated = run.tokens()
    if tokens:
        facts.append(("generated tokens", number(tokens[-1][1]) + (" (estimated)" if estimated else "")))
    if run.ledger is not None:
        step, counts = run.ledger
        lost = counts.get("lost_sessions", 0)
        facts.append(("ledger", f"{number(counts.get('generated', 0))} at checkpoint {step}, {lost} sessions lost"))
    seconds = [value for _, data in run.training if (value := finite(data.get("perf/time_per_step"))) is not None]
    if seconds:
        facts.append(("time in steps", duration(sum(seconds))))
    return facts


def checks(runs: Sequence[Run], found: Sequence[Sequence[Finding]]) -> str:
    """Advice on the checks that are not ok, and the table of all checks of all runs."""
    heads = "".join(f'<th scope="col">{badge(runs, i)}</th>' for i in range(len(runs)))
    rows = [
        f'<tr><th scope="row"><div><span>{escape(check.title)}</span><small>{escape(check.limits)}</small></div></th>'
        f"{''.join(_cell(of_run[i]) for of_run in found)}</tr>"
        for i, check in enumerate(CHECKS)
    ]
    todo = "".join(
        _advice(finding, badge(runs, i))
        for verdict in (Verdict.BAD, Verdict.LOOK)
        for i, of_run in enumerate(found)
        for finding in of_run
        if finding.verdict is verdict
    )
    calm = '<p class="calm">No number is beyond its limits.</p>'
    # The column of a single run is narrow, so there is room for two tables side by side.
    half = (len(rows) + 1) // 2
    parts = [rows[:half], rows[half:]] if len(runs) == 1 else [rows]
    tables = "".join(
        f'<div class="scroll" tabindex="0" role="region" aria-label="Checks"><table class="checks"><thead><tr>'
        f'<th scope="col">check</th>{heads}</tr></thead><tbody>{"".join(part)}</tbody></table></div>'
        for part in parts
    )
    kind = f'class="tables of{len(parts)}" style="--runs:{len(runs)}"'
    return f'<div class="advice">{todo or calm}</div><div {kind}>{tables}</div>'


def _cell(finding: Finding) -> str:
    verdict = finding.verdict
    shown = "" if finding.value is None else finding.shown
    hint = f' title="needs {escape(finding.check.needs)}"' if verdict is Verdict.UNKNOWN and finding.check.needs else ""
    return (
        f'<td class="{verdict.name.lower()}"{hint}><span class="finding"><span class="sign" aria-hidden="true">'
        f"{SIGNS[verdict]}</span><b>{escape(shown)}</b> "
        f'<span class="said">{verdict.value}</span></span>{_gauge(finding)}</td>'
    )


def _gauge(finding: Finding) -> str:
    """The position of the number relative to its limits."""
    check, value = finding.check, finding.value
    if value is None or check.unit is Unit.FLAG or check.look <= 0.0:
        return ""
    end = 1.25 * (check.bad if check.bad is not None else 2 * check.look)
    limits = (check.look, end if check.bad is None else check.bad, value)
    look, bad, here = (round(100 * min(1.0, x / end), 1) for x in limits)
    return (
        '<svg class="gauge" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="zone ok" x="0" width="{look}" y="3" height="2"/>'
        f'<rect class="zone look" x="{look}" width="{bad - look:.1f}" y="3" height="2"/>'
        f'<rect class="zone bad" x="{bad}" width="{100 - bad:.1f}" y="3" height="2"/>'
        f'<rect class="needle" x="{min(98.0, here):.1f}" width="2" y="0" height="8"/></svg>'
    )


def _advice(finding: Finding, whose: str) -> str:
    check = finding.check
    override = f"<pre>{escape(check.override)}</pre>" if check.override else ""
    return (
        f'<article class="{finding.verdict.name.lower()}"><h3><span class="sign" aria-hidden="true">'
        f"{SIGNS[finding.verdict]}</span>{escape(check.title)}: <b>{escape(finding.shown)}</b></h3>"
        f'<p class="whose">{whose} <span class="limits">{escape(check.limits)}</span></p>'
        f"<p>{escape(check.advice)}</p>{override}</article>"
    )
