# SPDX-License-Identifier: Apache-2.0
"""Below the curves: prompts of the newest step with their decisions in words, and what is missing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recipe.agpo.report import measures
from recipe.agpo.report.curves import MOST
from recipe.agpo.report.jsonl import finite
from recipe.agpo.report.read import Run

PROMPTS = (
    "The first prompts of the newest step. ● correct, ○ wrong, ◐ between, · not judged; the probe (the first responses "
    "of a group) comes first."
)
SAMPLES = "The best and the worst responses of the newest dumps."
ANSWERS, ANSWER_LENGTH = 3, 24  # answers shown of a prompt, characters of each
TEXT_LENGTH = 90  # characters shown of a prompt
# Reasons of agpo_core in words; which of two directions follows from the value.
REASONS: Mapping[str, str] = {
    "off": "controller off",
    "no_probe": "no usable probe: base value",
    "warmup": "nothing to compare with yet: base value",
    "at_min": "at its lower bound",
    "at_max": "at its upper bound",
    "zero_dispersion": "",
    "heated": "uncertain: heated",
    "cooled": "certain: cooled",
    "widened": "widened",
    "tightened": "tightened",
    "neutral": "as usual: base value",
}


@dataclass(frozen=True)
class Prompt:
    """One row of the table."""

    id: str
    text: str
    probe: str
    rest: str
    answers: str
    tau: str
    tau_why: str
    eps: str
    eps_why: str


@dataclass(frozen=True)
class PromptTable:
    """The first prompts of a step."""

    step: int
    rows: Sequence[Prompt]


def prompts(run: Run) -> PromptTable | None:
    """The newest decisions; None if the run has none."""
    if run.decisions is None or not run.decisions.latest:
        return None
    latest = run.decisions.latest
    texts = _own_parts([run.prompts.get(str(row.get("prompt")), "") for row in latest])
    bases = {"tau": _base(run, "temperature.base", "rollout.temperature")}
    bases["eps"] = _base(run, "clip.base", "actor.clip_ratio_low", "actor.clip_ratio")
    rows = [_prompt(row, text, bases) for row, text in zip(latest, texts, strict=True)]
    return PromptTable(int(latest[0]["step"]), rows)


def _own_parts(texts: Sequence[str]) -> list[str]:
    """Texts in one line without what all of them begin and end with: a system prompt, an instruction."""
    lines = [" ".join(text.split()) for text in texts]
    known = [line for line in lines if line]
    if len(set(known)) > 1:
        before = len(os.path.commonprefix(known))
        after = min(len(os.path.commonprefix([line[::-1] for line in known])), min(map(len, known)) - before)
        # Whole words, so that no number loses a digit that all of them share.
        before = known[0].rfind(" ", 0, before) + 1
        tail = known[0][len(known[0]) - after :]
        after = len(tail) - tail.find(" ") if after and " " in tail else 0
        ends = "…" if before else "", "…" if after else ""
        lines = [f"{ends[0]}{line[before : len(line) - after]}{ends[1]}" if line else "" for line in lines]
    return [line if len(line) <= TEXT_LENGTH else f"{line[:TEXT_LENGTH]}…" for line in lines]


def _base(run: Run, ours: str, *verls: str) -> float | None:
    """The value that a controller starts from."""
    found = [run.settings.number(ours), *(finite(run.configured(f"actor_rollout_ref.{key}")) for key in verls)]
    return next((value for value in found if value is not None), None)


def _prompt(row: Mapping[str, Any], text: str, bases: Mapping[str, float | None]) -> Prompt:
    outcomes, roles = _list(row, "outcomes"), _list(row, "roles")
    probe, rest = (
        [value for value, role in zip(outcomes, roles, strict=False) if (role == "probe") is wanted]
        for wanted in (True, False)
    )
    keys = Counter(str(key) or "no answer" for key in _list(row, "vote_keys"))
    answers = ", ".join(f"{key[:ANSWER_LENGTH]} ×{n}" for key, n in keys.most_common(ANSWERS))
    return Prompt(
        id=str(row.get("prompt")),
        text=text or str(row.get("prompt")),
        probe="".join(map(_dot, probe)),
        rest="".join(map(_dot, rest)),
        answers=answers + (", …" if len(keys) > ANSWERS else ""),
        tau=_value(row.get("tau")),
        tau_why=why(row.get("tau_reason"), probe, row.get("tau"), bases["tau"], ("heated", "cooled")),
        eps=_value(row.get("eps_low")),
        eps_why=why(row.get("eps_reason"), probe, row.get("eps_low"), bases["eps"], ("widened", "tightened")),
    )


def why(reason: Any, probe: Sequence[Any], value: Any, base: float | None, directions: tuple[str, str]) -> str:
    """A decision in words, such as "all correct: cooled".

    Args:
        reason: its label in the log; one that is not known is shown as it is.
        probe: outcomes of the probe.
        value, base: what was decided, and what without the controller.
        directions: words for more and for less than the base.
    """
    label = str(reason or "")
    if label != "zero_dispersion":
        return REASONS.get(label, label.replace("_", " "))
    known = [outcome for outcome in map(finite, probe) if outcome is not None]
    seen = "all correct" if known and min(known) >= 1.0 else "all wrong" if known and max(known) <= 0.0 else "all equal"
    number = finite(value)
    if number is None or base is None:
        return seen
    if abs(number - base) < 1e-6:
        return f"{seen}: base value"
    return f"{seen}: {directions[number < base]}"


def _dot(outcome: Any) -> str:
    value = finite(outcome)
    if value is None:
        return "·"
    return "●" if value >= 1.0 else "○" if value <= 0.0 else "◐"


def files_note(runs: Sequence[Run]) -> str:
    """How the curves were made from the files."""
    longest = max((len(run.records) for run in runs), default=0)
    note = "Attempts are merged: a resumed one replaces what an earlier one logged after its first step."
    if longest > MOST:
        group = -(-longest // MOST)
        note += (
            f" {longest:,} records are drawn as groups of up to {group}: the line is their mean, the band their range. "
            "Checks use every record."
        )
    return note


def missing(run: Run) -> list[str]:
    """The parts that the page cannot show for this run, and why."""
    gone = []
    if not any(note.name.startswith("metrics") or note.lines for note in run.files):
        gone.append("metrics*.jsonl (trainer.logger must contain file)")
    elif not run.training:
        gone.append("training steps")
    if not run.keys(measures.ACCURACY):
        gone.append("validation (trainer.test_freq)")
    if run.training and not run.adaptive:
        gone.append("metrics of the controllers (a baseline has none)")
    if run.decisions is None:
        gone.append("decisions of each prompt")
    if not run.settings:
        gone.append("settings (run.json, or a checkpoint), so targets and bounds are unknown")
    if not run.launches:
        gone.append("run.json, so model, overrides and planned steps are unknown")
    if not run.samples:
        gone.append("response dumps")
    if run.superseded:
        gone.append(f"{run.superseded} steps that an earlier attempt logged and the resumed one has not reached again")
    return gone


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    return value if isinstance(value, list) else []


def _value(value: Any) -> str:
    known = finite(value)
    return "–" if known is None else f"{known:.3f}"
