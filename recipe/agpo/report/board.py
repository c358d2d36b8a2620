# SPDX-License-Identifier: Apache-2.0
"""The first screen: every run at a glance, what was started, how to fix it, and the table of checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recipe.agpo.report import measures
from recipe.agpo.report.curves import over
from recipe.agpo.report.health import CHECKS, Check, Finding, Unit, Verdict, in_words, overall
from recipe.agpo.report.jsonl import finite
from recipe.agpo.report.panels import Badge
from recipe.agpo.report.read import Run
from recipe.agpo.report.text import duration, number

SIGNS = {Verdict.OK: "●", Verdict.LOOK: "▲", Verdict.BAD: "■", Verdict.UNKNOWN: "–"}
CALM = (Verdict.OK, Verdict.UNKNOWN)
VALIDATIONS = 3  # validation sets named in a card
ABOUT = (
    "Each check is one number with stated limits. Recent steps are the last fifth, at least five. The limits are rules "
    "of thumb for where to look."
)
Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Card:
    """A run at a glance."""

    badge: Badge
    verdict: Verdict
    sign: str
    words: str
    tally: str
    facts: Facts
    started: Facts
    overrides: Sequence[str]


@dataclass(frozen=True)
class Cell:
    """What a check says about a run. ``gauge``: limits and value in percent of the scale, None without a scale."""

    verdict: Verdict
    sign: str
    shown: str
    needs: str
    gauge: tuple[float, float, float] | None


@dataclass(frozen=True)
class Row:
    """A check over all runs; ``calm`` if there is nothing to look at."""

    check: Check
    cells: Sequence[Cell]
    calm: bool


@dataclass(frozen=True)
class Advice:
    """A check beyond its limits, and whose."""

    badge: Badge
    finding: Finding
    sign: str


def cards(runs: Sequence[Run], badges: Sequence[Badge], found: Sequence[Sequence[Finding]]) -> list[Card]:
    """Each run at a glance."""
    spent = [points[-1][1] for run in runs if (points := run.tokens()[0])]
    common = min(spent) if len(runs) > 1 and len(spent) == len(runs) else None
    return [_card(*each, common) for each in zip(runs, badges, found, strict=True)]


def _card(run: Run, badge: Badge, found: Sequence[Finding], common: float | None) -> Card:
    verdict = overall(found) if run.training else Verdict.UNKNOWN
    tally = ", ".join(f"{sum(f.verdict is kind for f in found)} {kind.value}" for kind in Verdict)
    facts = [*_facts(run), *(_at(run, common) if common else [])]
    overrides = run.launch.get("overrides")
    listed = [str(each) for each in overrides] if isinstance(overrides, list) else []
    return Card(badge, verdict, SIGNS[verdict], in_words(run, found), tally, facts, _started(run), listed)


def _at(run: Run, tokens: float) -> Facts:
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


def _facts(run: Run) -> Facts:
    """What came out."""
    facts = [("method", run.method)]
    if "seed" in run.identity:
        facts.append(("seed", str(run.identity["seed"])))
    resumed = f", resumed at {', '.join(map(str, run.starts[1:]))}" if len(run.starts) > 1 else ""
    planned = f" of {run.planned_steps}" if run.planned_steps else ""
    facts.append(("steps", f"{run.steps}{planned}{resumed}"))
    for key in run.keys(measures.ACCURACY)[:VALIDATIONS]:
        values = [value for _, value in run.series(key)]
        if values:
            facts.append((f"accuracy, {_source(key)}", f"{values[0]:.3f} → {values[-1]:.3f}, best {max(values):.3f}"))
    tokens, estimated = run.tokens()
    if tokens:
        budget = measures.token_budget(run)
        of = f" of {number(budget)}" if budget else ""
        facts.append(("generated tokens", number(tokens[-1][1]) + of + (" (estimated)" if estimated else "")))
    if run.ledger is not None:
        step, counts = run.ledger
        lost = counts.get("lost_sessions", 0)
        facts.append(("ledger", f"{number(counts.get('generated', 0))} at checkpoint {step}, {lost} sessions lost"))
    seconds = [value for _, data in run.training if (value := finite(data.get("perf/time_per_step"))) is not None]
    if seconds:
        facts.append(("time in steps", duration(sum(seconds))))
    return facts


def _started(run: Run) -> Facts:
    """What was started, from ``run.json``; empty without it."""
    launch = run.launch
    if not launch:
        return []
    rate = finite(run.configured("actor_rollout_ref.actor.optim.lr"))
    prompts, group = run.configured("data.train_batch_size"), run.configured("actor_rollout_ref.rollout.n")
    mini = run.configured("actor_rollout_ref.actor.ppo_mini_batch_size")
    batch = f"{prompts} prompts × {group} responses, {mini} prompts per update" if prompts and group else None
    versions = launch.get("versions")
    named = versions.items() if isinstance(versions, Mapping) else ()
    more = f", after {len(run.launches) - 1} earlier" if len(run.launches) > 1 else ""
    wanted = {
        "model": run.configured("actor_rollout_ref.model.path"),
        "learning rate": None if rate is None else number(rate),
        "batch": batch,
        "preset": run.settings.preset or None,
        "started": f"{launch['started']}{more}" if launch.get("started") else None,
        "machine": _machine(launch.get("machine")),
        "commit": launch.get("commit"),
        "versions": ", ".join(f"{name} {version}" for name, version in named) or None,
    }
    return [(name, str(value)) for name, value in wanted.items() if value is not None]


def _machine(machine: object) -> str | None:
    if not isinstance(machine, Mapping):
        return None
    gpus = machine.get("gpus")
    parts = [*(map(str, gpus) if isinstance(gpus, list) else ()), machine.get("processor")]
    parts += [f"{machine.get('cores')} cores, {machine.get('memory_gib')} GiB" if machine.get("cores") else None]
    return ", ".join(str(part) for part in parts if part) or None


def rows(found: Sequence[Sequence[Finding]]) -> list[Row]:
    """The table of all checks of all runs."""
    by_check = zip(CHECKS, zip(*found, strict=True), strict=True)
    return [Row(c, [_cell(each) for each in row], all(each.verdict in CALM for each in row)) for c, row in by_check]


def advice(badges: Sequence[Badge], found: Sequence[Sequence[Finding]]) -> list[Advice]:
    """The checks beyond their limits, the worst first."""
    return [
        Advice(badge, finding, SIGNS[verdict])
        for verdict in (Verdict.BAD, Verdict.LOOK)
        for badge, of_run in zip(badges, found, strict=True)
        for finding in of_run
        if finding.verdict is verdict
    ]


def _cell(finding: Finding) -> Cell:
    verdict = finding.verdict
    needs = finding.check.needs if verdict is Verdict.UNKNOWN else ""
    return Cell(verdict, SIGNS[verdict], "" if finding.value is None else finding.shown, needs, _gauge(finding))


def _gauge(finding: Finding) -> tuple[float, float, float] | None:
    """First limit, second limit and value, in percent of a scale that ends beyond the last limit."""
    check, value = finding.check, finding.value
    if value is None or check.unit is Unit.FLAG or check.look <= 0.0:
        return None
    end = 1.25 * (check.bad if check.bad is not None else 2 * check.look)
    look, bad, here = (
        round(100 * min(1.0, x / end), 1) for x in (check.look, end if check.bad is None else check.bad, value)
    )
    return look, bad, min(98.0, here)
