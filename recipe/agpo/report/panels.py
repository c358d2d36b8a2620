# SPDX-License-Identifier: Apache-2.0
"""The panels of the page by section: panels shared by several runs, and panels of each run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from recipe.agpo import palette
from recipe.agpo.report import evidence, measures
from recipe.agpo.report.charts import Axis, Figure, Guide, empty_panel, histogram_panel, line_panel, stack_panel
from recipe.agpo.report.curves import Curve, Point, over, plain, spread, stacked
from recipe.agpo.report.read import Run, Series
from recipe.agpo.rewards.verdict import RESPONSE_STATUSES

OPEN = ("learning", "step-size")
SOURCES = 6  # validation sets with panels of their own
NO_CONTROLLER = "this run has no metrics of that controller"
OUR_LOG = "this run has no metrics under agpo/"

# One colour each, the same in every panel; in palette.py.
REASONS: Mapping[str, str] = {reason: f"k{i}" for i, reason in enumerate(evidence.REASONS)}
VERDICTS: Mapping[str, str] = {status: f"v{i}" for i, status in enumerate(RESPONSE_STATUSES)}
TOKENS: Mapping[str, str] = {"rest": "t0", "probe": "t1", "discarded": "t2", "validation": "t3"}
SOLVED: Mapping[str, str] = {"never": "t2", "sometimes": "t0", "always": "t1"}


@dataclass(frozen=True)
class Badge:
    """A run's colour, letter and name, wherever it is named. ``letter`` is empty where there is only one run."""

    style: str
    letter: str
    name: str


@dataclass(frozen=True)
class Section:
    """A part of the page: shared panels, then one row of panels for each run."""

    name: str
    title: str
    note: str
    shared: Sequence[Figure] = ()
    by_run: Sequence[Sequence[Figure]] = ()

    @property
    def open(self) -> bool:
        """Whether it is shown on a phone before it is asked for."""
        return self.name in OPEN


@dataclass(frozen=True)
class Frame:
    """The runs of a page and the axes that their panels share."""

    runs: Sequence[Run]
    badges: Sequence[Badge]
    steps: Axis
    tokens: Axis

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Frame:
        """Axes that hold every run."""
        last = max((run.records[-1][0] for run in runs if run.records), default=1)
        spent = max((points[-1][1] for run in runs if (points := run.tokens()[0])), default=1.0)
        steps, tokens = Axis("step", 0.0, float(max(1, last))), Axis("tokens", 0.0, max(1.0, spent))
        return cls(runs, badges(runs), steps, tokens)

    def curves(self, points: Callable[[Run], Sequence[Point]]) -> list[Curve]:
        """One curve of each run."""
        return [
            Curve(badge.name, badge.style, points(run), mark=badge.letter)
            for run, badge in zip(self.runs, self.badges, strict=True)
        ]

    def panel(self, title: str, unit: str, *keys: str, from_zero: bool = False, guides: Sequence[Guide] = ()) -> Figure:
        """The first logged of ``keys`` over steps, all runs in one panel."""
        curves = self.curves(lambda run: plain(run.series(*keys)))
        missing = " or ".join(keys)
        return line_panel(title, unit, curves, self.steps, guides=guides, from_zero=from_zero, missing=missing)


def badges(runs: Sequence[Run]) -> list[Badge]:
    """Colours by method, as in every picture of the project; letters where several runs share a panel."""
    places = palette.places([run.method for run in runs])
    found = []
    for i, (run, place) in enumerate(zip(runs, places, strict=True)):
        style = f"r{place % len(palette.SERIES)} {palette.dash(place)}".removesuffix(" solid")
        letter = chr(ord("A") + i) if i < 26 else str(i + 1)
        found.append(Badge(style, letter if len(runs) > 1 else "", run.name))
    return found


def sections(runs: Sequence[Run]) -> list[Section]:
    """All sections with curves, in the order of the page."""
    frame = Frame.of(runs)
    whole = [_learning(frame), _policy(frame), _step_size(frame), _temperature(frame), _clip(frame), _groups(frame)]
    return [section for section in (*whole, _tokens(frame), _verifier(frame)) if section.shared or section.by_run]


def _learning(frame: Frame) -> Section:
    keys = sorted({key for run in frame.runs for key in run.keys(measures.ACCURACY)})
    panels = []
    for key in keys[:SOURCES]:
        title = f"Accuracy, {key.removeprefix('val-core/').replace('/acc/mean@1', '').replace('/acc/', ' ')}"
        panels += [
            line_panel(
                title, "share of problems", frame.curves(_on_tokens(key)), frame.tokens, missing="generated tokens"
            ),
            line_panel(title, "share of problems", frame.curves(_on_steps(key)), frame.steps),
        ]
    if not keys:
        panels.append(empty_panel("Validation", "accuracy", "no validation (trainer.test_freq)"))
    panels += [
        frame.panel("Reward", "mean per step", "critic/score/mean"),
        frame.panel("Groups without contrast", "share of prompts", "agpo/zero_variance_share", from_zero=True),
        frame.panel("Response length", "tokens, mean", "response_length/mean", from_zero=True),
        frame.panel("Longest response", "tokens", "response_length/max", from_zero=True),
    ]
    more = f" {len(keys) - SOURCES} further validation sets are left out." if len(keys) > SOURCES else ""
    return Section("learning", "Learning", "Accuracy and reward, over steps and generated tokens." + more, panels)


def _on_tokens(key: str) -> Callable[[Run], Sequence[Point]]:
    return lambda run: plain(over(run.series(key), run.tokens()[0])) if run.tokens()[0] else []


def _on_steps(key: str) -> Callable[[Run], Sequence[Point]]:
    return lambda run: plain(run.series(key))


def _policy(frame: Frame) -> Section:
    guides = _targets(frame, "clip", "clip.kl_target")
    clipped = frame.curves(lambda run: plain(_clipped(run)))
    return Section(
        "policy",
        "Policy",
        "Step KL, policy entropy, and the difference between sampler and learner.",
        [
            frame.panel("Policy entropy", "nats per token", *measures.ENTROPY, from_zero=True),
            frame.panel("Step KL", "nats per token", *measures.STEP_KL, guides=guides),
            line_panel("Clipped tokens", "share", clipped, frame.steps, from_zero=True, missing="actor/pg_clipfrac"),
            frame.panel("Sampler against learner", "log-prob., nats", *measures.PROBS_DIFF, from_zero=True),
            frame.panel("Gradient norm", "per step", "actor/grad_norm", from_zero=True),
        ],
    )


def _step_size(frame: Frame) -> Section:
    """Factor, the resulting rate, and what the controller looks at."""
    with_one = any(run.keys(re.escape(measures.STEP_SIZE)) for run in frame.runs)
    effective = frame.curves(lambda run: plain(effective_rate(run)))
    configured = [
        replace(curve, style=f"{curve.style} ghost", label=f"{curve.label}, configured", read=False)
        for curve in frame.curves(lambda run: plain(run.series("actor/lr")))
    ]
    drifts = frame.curves(lambda run: plain(_drift(run)))
    targets = _targets(frame, "step_size", "step_size.drift_target")
    shared = [
        line_panel("Effective learning rate", "per update", [*configured, *effective], frame.steps, from_zero=True)
    ]
    if with_one:
        size = frame.panel("Step size", "factor on the learning rate", measures.STEP_SIZE, from_zero=True)
        words = "step KL / policy entropy"
        drift = line_panel("Drift", words, drifts, frame.steps, guides=targets, from_zero=True, missing=OUR_LOG)
        shared = [size, *shared, drift]
    if not any(figure.data for figure in shared):
        shared = []
    note = "Effective learning rate = rate × step size; the faint line is the rate as configured and scheduled."
    return Section("step-size", "Step size", note, shared)


def effective_rate(run: Run) -> Series:
    """Learning rate times step size, as logged or from the two; the rate alone where there is no step size."""
    if logged := run.series(measures.EFFECTIVE_RATE):
        return logged
    scales = dict(run.series(measures.STEP_SIZE))
    return [(x, rate * scales.get(x, 1.0)) for x, rate in run.series("actor/lr")]


def _drift(run: Run) -> Series:
    entropy = dict(run.series(*measures.ENTROPY))
    return [(x, kl / entropy[x]) for x, kl in run.series(measures.STEP_KL_K3) if entropy.get(x, 0.0) > 0.0]


def _targets(frame: Frame, section: str, key: str) -> list[Guide]:
    """The targets of the runs that have this controller on."""
    found = {run.settings.number(key) for run in frame.runs if run.settings.on(section)}
    return [Guide(target, f"target {target:g}") for target in sorted(each for each in found if each is not None)]


def _clipped(run: Run) -> Series:
    """Both sides together; what verl logs where the controller is off."""
    low, high = run.series("agpo/clip_fraction/low"), dict(run.series("agpo/clip_fraction/high"))
    return [(x, y + high.get(x, 0.0)) for x, y in low] or run.series("actor/pg_clipfrac")


def _temperature(frame: Frame) -> Section:
    at_bound = frame.curves(lambda run: plain(_both(run, "agpo/tau/share_at_min", "agpo/tau/share_at_max")))
    shared = [
        line_panel("Prompts at a bound", "share", at_bound, frame.steps, from_zero=True, missing=NO_CONTROLLER),
        frame.panel("Probe dispersion", "mean over prompts", "agpo/signal/dispersion/mean", from_zero=True),
        frame.panel("Probe vote entropy", "nats, mean", "agpo/signal/vote_entropy/mean", from_zero=True),
    ]
    by_run = [_controller(frame, i, "tau", "Temperature tau") for i in range(len(frame.runs))]
    note = "Line: mean of the responses; bands: 10 to 90 % of the prompts, and lowest to highest response."
    return Section("temperature", "Temperature", note, shared, by_run)


def _clip(frame: Frame) -> Section:
    at_bound = frame.curves(lambda run: plain(_both(run, "agpo/eps/share_at_min", "agpo/eps/share_at_max")))
    shared = [
        line_panel("Prompts at a bound", "share", at_bound, frame.steps, from_zero=True, missing=NO_CONTROLLER),
        frame.panel("Upper clip ratio", "mean over responses", "agpo/eps_high/mean"),
        frame.panel("Running step KL", "that decided, nats", "agpo/state/step_kl"),
    ]
    by_run = [_controller(frame, i, "eps", "Clip ratio eps, lower") for i in range(len(frame.runs))]
    note = "The lower clip ratio; with clip-higher the upper one follows by the same factor."
    return Section("clip", "Clip ratio", note, shared, by_run)


def _controller(frame: Frame, index: int, name: str, title: str) -> list[Figure]:
    """One run's decisions of one controller: over steps, as a distribution, by reason."""
    run, colour = frame.runs[index], frame.badges[index].style
    if not run.keys(f"agpo/{name}/mean"):
        return []
    section = {"tau": "temperature", "eps": "clip"}[name]
    bounds = {word: run.settings.number(f"{section}.{word}") for word in ("min", "max")}
    guides = [Guide(value, f"{word} {value:g}") for word, value in bounds.items() if value is not None]
    curves = [Curve(run.name, colour, spread(run, f"agpo/{name}"))]
    values: list[float] = []
    if run.decisions is not None:
        inner = [(x, (a + b) / 2, a, b) for x, a, b in run.decisions.quantiles(name, 0.1, 0.9)]
        curves.insert(0, Curve("10 to 90 %", f"{colour} inner", inner, line=False, read=False))
        values = run.decisions.values(name, measures.recent(run)[0][0] if run.training else 0)
    counted = {
        reason: dict(run.series(f"agpo/{name}/reason/{reason}"))
        for reason in REASONS
        if run.series(f"agpo/{name}/reason/{reason}")
    }
    reasons = stacked([float(step) for step, _ in run.training], counted, share=True)
    return [
        line_panel(title, "per step", curves, frame.steps, guides=guides, missing=NO_CONTROLLER),
        histogram_panel(
            "Over prompts",
            "last fifth, share",
            values,
            colour,
            low=min(values, default=0.0) if bounds["min"] is None else bounds["min"],
            high=max(values, default=1.0) if bounds["max"] is None else bounds["max"],
            missing="no decisions of it (agpo_decisions.jsonl)",
        ),
        stack_panel("Reasons", "share of prompts", reasons, REASONS, frame.steps, missing=NO_CONTROLLER),
    ]


# title, unit, key: parts that most runs leave off, so only what some run has logged is shown
GROUP_PANELS = (
    ("Masked groups", "share of prompts", "agpo/masked_share"),
    ("Weight of the adaptive loss", "mean over responses", "agpo/loss/weight_mean"),
    ("Groups below the floor", "share of responses", "agpo/loss/floored_share"),
    ("Length reward", "mean part of the advantage", "agpo/length/part"),
    ("Smallest group", "scored responses", "agpo/group_size/min"),
    ("Largest group", "scored responses", "agpo/group_size/max"),
)


def _groups(frame: Frame) -> Section:
    logged = [panel for panel in GROUP_PANELS if any(run.series(panel[2]) for run in frame.runs)]
    note = "Rules for groups of equal outcomes, adaptive loss, length reward, allocation."
    return Section("groups", "Groups", note, [frame.panel(*panel, from_zero=True) for panel in logged])


def _tokens(frame: Frame) -> Section:
    cumulative = frame.curves(lambda run: plain(run.tokens()[0]))
    budgets = sorted({budget for run in frame.runs if (budget := measures.token_budget(run))})
    guides = [Guide(float(budget), "budget") for budget in budgets]
    shared = [
        line_panel(
            "Generated tokens",
            "cumulative",
            cumulative,
            frame.steps,
            guides=guides,
            from_zero=True,
            missing="agpo/tokens/generated_cumulative",
        ),
        frame.panel("Time per step", "seconds", "perf/time_per_step", from_zero=True),
    ]
    by_run = [
        [stack_panel("Tokens by use", "per step", _use_of_tokens(run), TOKENS, frame.steps, missing=OUR_LOG)]
        for run in frame.runs
    ]
    estimated = [run.name for run in frame.runs if run.tokens()[0] and run.tokens()[1]]
    note = "All sampled tokens, trained on or not. Validation does not count towards the budget."
    if estimated:
        note += f" Estimated from trained rows, because there is no token ledger: {', '.join(estimated)}."
    return Section("tokens", "Tokens", note, shared, by_run)


def _use_of_tokens(run: Run) -> dict[str, Series]:
    logged = {
        name: dict(run.series(f"agpo/tokens/{name}")) for name in ("generated", "probe", "discarded", "validation")
    }
    steps = sorted(logged["generated"])
    thrown, probe = logged["discarded"], logged["probe"]
    layers = {
        "rest": {x: logged["generated"][x] - probe.get(x, 0.0) for x in steps},
        "probe": {x: probe.get(x, 0.0) - thrown.get(x, 0.0) for x in steps},
        "discarded": thrown,
        "validation": logged["validation"],
    }
    return stacked(steps, layers, share=False)


def _verifier(frame: Frame) -> Section:
    shared = [frame.panel("Slowest verdict", "seconds", "agpo/verifier/seconds_max", from_zero=True)]
    by_run = []
    for run in frame.runs:
        counts = {status: dict(run.series(f"agpo/verifier/{status}")) for status in RESPONSE_STATUSES}
        statuses = stacked([float(step) for step, _ in run.training], counts, share=True)
        by_run.append(
            [
                stack_panel("Verdicts", "share of responses", statuses, VERDICTS, frame.steps, missing=OUR_LOG),
                stack_panel("Prompts solved", "share", _solved(run), SOLVED, frame.steps, missing="no decisions file"),
            ]
        )
    note = "Verifier statuses: ok is a verdict, correct or wrong. Prompts solved: never, sometimes, by every response."
    return Section("verifier", "Verifier", note, shared, by_run)


def _solved(run: Run) -> dict[str, Series]:
    if run.decisions is None:
        return {}
    steps = run.decisions.steps
    layers = {name: {float(x): float(getattr(item, name)) for x, item in steps.items()} for name in SOLVED}
    return stacked([float(step) for step in sorted(steps)], layers, share=True)


def _both(run: Run, low: str, high: str) -> Series:
    above = dict(run.series(high))
    return [(x, y + above.get(x, 0.0)) for x, y in run.series(low)]
