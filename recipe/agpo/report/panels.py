# SPDX-License-Identifier: Apache-2.0
"""The panels of the page by section: panels shared by several runs, and panels of each run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agpo_core import Reason
from recipe.agpo.report import measures
from recipe.agpo.report.charts import Axis, Guide, empty_panel, histogram_panel, line_panel, stack_panel
from recipe.agpo.report.curves import Curve, Point, over, plain, spread, stacked
from recipe.agpo.report.read import Run
from recipe.agpo.rewards.verdict import RESPONSE_STATUSES
from recipe.agpo.settings import RunConfig

COLOURS = 6  # runs beyond them repeat colours, dashed
SOURCES = 6  # validation sets with panels of their own
NO_CONTROLLER = "this run has no metrics of that controller"
OUR_LOG = "this run has no metrics under agpo/"

# One colour each, the same in every panel; k0 to k10 in style.css.
REASONS: Mapping[str, str] = {reason.label: f"k{int(reason)}" for reason in Reason}
VERDICTS: Mapping[str, str] = {status: f"v{i}" for i, status in enumerate(RESPONSE_STATUSES)}
TOKENS: Mapping[str, str] = {"rest": "t0", "probe": "t1", "discarded": "t2", "validation": "t3"}
SOLVED: Mapping[str, str] = {"never": "t2", "sometimes": "t0", "always": "t1"}


@dataclass(frozen=True)
class Section:
    """A part of the page: shared panels, then one row of panels for each run."""

    name: str
    title: str
    note: str
    shared: Sequence[str] = ()
    by_run: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Frame:
    """The runs of a page and the axes that their panels share."""

    runs: Sequence[Run]
    steps: Axis
    tokens: Axis

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Frame:
        """Axes that hold every run."""
        last = max((run.records[-1][0] for run in runs if run.records), default=1)
        spent = max((points[-1][1] for run in runs if (points := run.tokens()[0])), default=1.0)
        return cls(runs, Axis("step", 0.0, float(max(1, last))), Axis("tokens", 0.0, max(1.0, spent)))

    def curves(self, points: Callable[[Run], Sequence[Point]]) -> list[Curve]:
        """One curve of each run."""
        several = len(self.runs) > 1
        return [
            Curve(run.name, style(i), points(run), mark=mark(i) if several else "") for i, run in enumerate(self.runs)
        ]

    def panel(self, title: str, unit: str, *keys: str, from_zero: bool = False, guides: Sequence[Guide] = ()) -> str:
        """The first logged of ``keys`` over steps, all runs in one panel."""
        curves = self.curves(lambda run: plain(run.series(*keys)))
        missing = " or ".join(keys)
        return line_panel(title, unit, curves, self.steps, guides=guides, from_zero=from_zero, missing=missing)


def style(index: int) -> str:
    """The CSS classes of a run."""
    return f"r{index % COLOURS}" + (" dashed" if index >= COLOURS else "")


def mark(index: int) -> str:
    """The letter of a run, where several share a panel."""
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def sections(runs: Sequence[Run]) -> list[Section]:
    """All sections with curves, in the order of the page."""
    frame = Frame.of(runs)
    whole = [_learning(frame), _policy(frame), _temperature(frame), _clip(frame), _groups(frame)]
    return [section for section in (*whole, _tokens(frame), _verifier(frame)) if section.shared or section.by_run]


def _learning(frame: Frame) -> Section:
    keys = sorted({key for run in frame.runs for key in run.keys(measures.ACCURACY)})
    panels = []
    for key in keys[:SOURCES]:
        title = f"Accuracy, {key.removeprefix('val-core/').replace('/acc/mean@1', '').replace('/acc/', ' ')}"
        panels += [
            line_panel(title, "over tokens", frame.curves(_on_tokens(key)), frame.tokens),
            line_panel(title, "over steps", frame.curves(_on_steps(key)), frame.steps),
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
    targets = sorted({_settings(run).clip.kl_target for run in frame.runs if run.adaptive})
    guides = [Guide(target, f"target {target:g}") for target in targets]
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
            frame.panel("Learning rate", "effective, per step", "agpo/step_size/lr", "actor/lr", from_zero=True),
            frame.panel("Step size", "factor on the learning rate", "agpo/step_size/scale", from_zero=True),
        ],
    )


def _clipped(run: Run) -> list[tuple[float, float]]:
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


def _controller(frame: Frame, index: int, name: str, title: str) -> list[str]:
    """One run's decisions of one controller: over steps, as a distribution, by reason."""
    run, colour = frame.runs[index], style(index)
    if not run.keys(f"agpo/{name}/mean"):
        return []
    settings = _settings(run).temperature if name == "tau" else _settings(run).clip
    low, high = settings.min, settings.max
    guides = [Guide(low, f"min {low:g}"), Guide(high, f"max {high:g}")]
    curves = [Curve(f"{run.name}", colour, spread(run, f"agpo/{name}"))]
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
            low=low,
            high=high,
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


def _use_of_tokens(run: Run) -> dict[str, list[tuple[float, float]]]:
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


def _solved(run: Run) -> dict[str, list[tuple[float, float]]]:
    if run.decisions is None:
        return {}
    steps = run.decisions.steps
    layers = {name: {float(x): float(getattr(item, name)) for x, item in steps.items()} for name in SOLVED}
    return stacked([float(step) for step in sorted(steps)], layers, share=True)


def _both(run: Run, low: str, high: str) -> list[tuple[float, float]]:
    above = dict(run.series(high))
    return [(x, y + above.get(x, 0.0)) for x, y in run.series(low)]


def _settings(run: Run) -> RunConfig:
    """The run's settings, or the defaults if no checkpoint has them."""
    return run.settings or RunConfig()
