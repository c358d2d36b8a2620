# SPDX-License-Identifier: Apache-2.0
"""The pictures of docs/method.md, drawn from the code that they show.

python docs/pictures/draw.py     # writes step.svg and controllers.png beside this file
"""

from __future__ import annotations

import argparse
import dataclasses
from html import escape
from pathlib import Path

import torch

from agpo_core import (
    AGPOConfig,
    ControllerState,
    ProbeStats,
    RunningStat,
    StepSignals,
    decide_clip,
    decide_temperature,
    initial_step_size,
    next_step_size,
)

HERE = Path(__file__).parent
INK, PALE, ACCENT = "#22303c", "#eef2f5", "#0b7285"

# ---- one step -----------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 960, 470
# (x, y, width, height, title, lines, whether it belongs to AGPO and is drawn in colour)
BOXES = [
    (20, 50, 130, 70, "prompts", ["P of them"], False),
    (190, 50, 150, 70, "probe", ["G_probe responses each,", "at tau_base"], False),
    (380, 50, 150, 70, "verifier", ["outcome and vote key", "of every response"], False),
    (570, 50, 170, 70, "statistics", ["dispersion, vote entropy,", "skewness"], True),
    (190, 200, 150, 70, "the rest", ["G - G_probe responses,", "each prompt at its tau"], False),
    (570, 170, 170, 56, "temperature", ["tau per prompt"], True),
    (570, 256, 170, 56, "clip ratio", ["eps per prompt"], True),
    (570, 342, 170, 56, "step size", ["factor on the learning rate"], True),
    (20, 342, 150, 70, "group", ["G responses, each with", "its own tau"], False),
    (200, 342, 150, 70, "old log-probs", ["at each response's tau;", "policy entropy H"], False),
    (390, 342, 140, 70, "updates", ["clipped at each", "response's eps"], False),
    (785, 200, 155, 100, "state", ["running means", "frozen in a step,", "then folded once"], True),
]
# (points, label, where the label stands)
ARROWS = [
    ([(150, 85), (190, 85)], "", None),
    ([(340, 85), (380, 85)], "", None),
    ([(530, 85), (570, 85)], "", None),
    ([(655, 120), (655, 170)], "", None),
    ([(570, 198), (455, 198), (455, 222), (340, 222)], "tau", (500, 190)),
    ([(190, 248), (95, 248), (95, 342)], "", None),
    ([(265, 120), (265, 135), (60, 135), (60, 342)], "reused", (70, 155)),
    ([(265, 200), (265, 160), (420, 160), (420, 120)], "", None),
    ([(170, 377), (200, 377)], "", None),
    ([(350, 377), (390, 377)], "", None),
    ([(570, 284), (460, 284), (460, 342)], "eps", (500, 276)),
    ([(570, 370), (530, 370)], "", None),
    ([(740, 85), (862, 85), (862, 200)], "after the step", (768, 77)),
    ([(785, 230), (760, 230), (760, 198), (740, 198)], "", None),
    ([(785, 262), (760, 262), (760, 284), (740, 284)], "", None),
    ([(820, 300), (820, 370), (740, 370)], "", None),
    ([(460, 412), (460, 440), (890, 440), (890, 300)], "step KL", (640, 433)),
    ([(275, 412), (275, 452), (915, 452), (915, 300)], "H", (330, 446)),
]


def step_svg() -> str:
    """What happens in one step, and where the controllers stand in it."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="Helvetica, Arial, sans-serif">',
        "<title>One step: probe, decide, sample the rest, score, update, fold</title>",
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for points, label, place in ARROWS:
        path = "M" + "L".join(f"{x} {y}" for x, y in points)
        parts.append(f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1.4" marker-end="url(#tip)"/>')
        if label and place:
            parts.append(f'<text x="{place[0]}" y="{place[1]}" font-size="12" fill="{ACCENT}">{escape(label)}</text>')
    for x, y, width, height, title, lines, ours in BOXES:
        edge, fill = (ACCENT, "#e3f4f7") if ours else (INK, PALE)
        parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{edge}" '
            'stroke-width="1.4"/>'
        )
        top = y + height / 2 - 7.5 * len(lines) + 4
        parts.append(_text(x + width / 2, top, title, 14, "bold"))
        parts += [_text(x + width / 2, top + 16 * (i + 1), line, 11.5, "normal") for i, line in enumerate(lines)]
    return "\n".join([*parts, "</svg>\n"])


def _text(x: float, y: float, words: str, size: float, weight: str) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="middle" fill="{INK}">'
        f"{escape(words)}</text>"
    )


# ---- the controllers as functions of their signals -----------------------------------------------------------


def probes(**signals: list[float]) -> ProbeStats:
    """Probes of four valid responses with these normalised signals; what is not named is at its running mean."""
    count = len(next(iter(signals.values())))
    value = {name: torch.tensor(signals.get(name, [0.5] * count)).double() for name in ("dispersion", "vote_entropy")}
    skewness = torch.tensor(signals.get("skewness", [0.3] * count)).double()
    zero = torch.zeros(count, dtype=torch.float64)
    return ProbeStats(
        torch.full((count,), 4),
        zero + 0.5,
        value["dispersion"],
        skewness,
        value["vote_entropy"],
        value["dispersion"],
        skewness,
        value["vote_entropy"],
    )


def warm_state(config: AGPOConfig) -> ControllerState:
    """Running means in the middle, deviations as a mixed data set shows them."""

    def seen(mean: float, std: float) -> RunningStat:
        return RunningStat.empty(0.1).update([mean - std, mean + std])

    return dataclasses.replace(
        ControllerState.initial(config),
        uncertainty=seen(1.0, 0.4),
        dispersion=seen(0.5, 0.25),
        vote_entropy=seen(0.5, 0.25),
        skewness=seen(0.3, 0.2),
        entropy=seen(0.5, 0.0),
        step_kl=seen(config.clip.kl_target, 0.0),
        step=1,
    )


def controllers_png(path: Path) -> None:
    """tau over the uncertainty; eps over each of its signals; the step size over steps from several starts."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    config = AGPOConfig()
    state, figure = warm_state(config), plt.figure(figsize=(12, 3.6))
    axes = figure.subplots(1, 3)
    grid = [i / 100 for i in range(101)]
    for gain in (0.15, 0.3, 0.6):
        adapted = AGPOConfig.from_dict({"temperature": {"gain": gain}})
        tau = decide_temperature(probes(dispersion=grid, vote_entropy=grid), state, adapted, 1.0).tau
        name = f"gain {gain:g}" + (" (default)" if gain == config.temperature.gain else "")
        axes[0].plot([2 * x for x in grid], tau.tolist(), label=name)
    _bounds(axes[0], config.temperature.min, config.temperature.max)
    axes[0].set(title="temperature", xlabel="uncertainty: dispersion + vote entropy (mean 1)", ylabel="tau")

    mean = probes(dispersion=[0.5])

    def eps(stats: ProbeStats, entropy: float = 0.5, before: ControllerState = state) -> list[float]:
        return decide_clip(stats, StepSignals(policy_entropy=entropy), before, config, 0.2, 0.2).high.tolist()

    kl = [_with_kl(state, 4 * x * config.clip.kl_target) for x in grid]
    shown = {
        "dispersion": eps(probes(dispersion=grid)),
        "vote entropy": eps(probes(vote_entropy=grid)),
        "policy entropy": [eps(mean, max(1e-6, x))[0] for x in grid],
        "step KL / 4 targets": [eps(mean, before=drifted)[0] for drifted in kl],
    }
    for name, values in shown.items():
        axes[1].plot(grid, values, label=name)
    _bounds(axes[1], config.clip.min, config.clip.max)
    axes[1].set(title="clip ratio", xlabel="one signal, the others at their running means", ylabel="eps")

    for configured, style in ((1e-6, "-"), (1e-4, "--"), (1e-1, ":")):
        size, scales = initial_step_size(config.step_size, configured), []
        for _ in range(12):
            scales.append(size.scale)
            # The drift of a small step grows with its square; here a rate of 1e-4 gives the target.
            drift = config.step_size.drift_target * (configured * size.scale / 1e-4) ** 2
            size = next_step_size(0.5 * drift, 0.5, size, config.step_size)
        axes[2].plot(scales, style, label=f"configured rate {configured:g}")
    axes[2].set(title="step size (a rate of 1e-4 meets the target)", xlabel="step", ylabel="scale", yscale="log")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _with_kl(state: ControllerState, kl: float) -> ControllerState:
    return dataclasses.replace(state, step_kl=RunningStat.empty(0.1).update([kl]))


def _bounds(axis, low: float, high: float) -> None:  # type: ignore[no-untyped-def]
    for bound in (low, high):
        axis.axhline(bound, color="grey", linewidth=0.8, linestyle="--")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    out = parser.parse_args().out
    (out / "step.svg").write_text(step_svg(), encoding="utf-8")
    controllers_png(out / "controllers.png")


if __name__ == "__main__":
    main()
