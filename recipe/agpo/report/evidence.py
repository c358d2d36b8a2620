# SPDX-License-Identifier: Apache-2.0
"""Sections below the curves: prompts of the newest step, sample responses, files, and missing data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from recipe.agpo.report import measures
from recipe.agpo.report.board import badge
from recipe.agpo.report.curves import MOST
from recipe.agpo.report.jsonl import finite
from recipe.agpo.report.read import Run
from recipe.agpo.report.samples import Sample
from recipe.agpo.report.text import escape, number

PROMPTS = (
    "The first prompts of the newest step. ● correct, ○ wrong, ◐ between, · not judged; the probe (the first responses "
    "of a group) comes first."
)
SAMPLES = "The best and the worst responses of the newest dump."
ANSWERS, ANSWER_LENGTH = 3, 24  # answers shown of a prompt, characters of each


def prompts(runs: Sequence[Run]) -> str:
    """One table of decisions for each run that has them."""
    out = ""
    for i, run in enumerate(runs):
        head = _head(runs, i)
        if run.decisions is None or not run.decisions.latest:
            out += f'{head}<p class="none">No decisions file in the checkpoint folder: a run without controllers, '
            out += "with algorithm.agpo.decisions_file=false, or with checkpoints in another folder.</p>"
            continue
        rows = "".join(_prompt(row) for row in run.decisions.latest)
        columns = ("prompt", "probe", "rest", "answers", "tau", "why", "eps", "why")
        heads = "".join(f'<th scope="col">{name}</th>' for name in columns)
        step = run.decisions.latest[0].get("step")
        out += (
            f'{head}<div class="scroll" tabindex="0" role="region" aria-label="Prompts of {escape(run.name)}">'
            f'<table class="prompts"><caption>step {escape(step)}</caption><thead><tr>{heads}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    return out


def _prompt(row: Mapping[str, Any]) -> str:
    outcomes, roles = _list(row, "outcomes"), _list(row, "roles")
    sides = [
        "".join(_dot(value) for value, role in zip(outcomes, roles, strict=False) if (role == "probe") is probe)
        for probe in (True, False)
    ]
    keys = Counter(str(key) or "no answer" for key in _list(row, "vote_keys"))
    answers = ", ".join(f"{escape(key[:ANSWER_LENGTH])} ×{n}" for key, n in keys.most_common(ANSWERS))
    cells = [
        f'<th scope="row">{escape(row.get("prompt"))}</th>',
        *(f'<td class="dots">{side}</td>' for side in sides),
        f'<td class="answers">{answers}{", …" if len(keys) > ANSWERS else ""}</td>',
        *(
            f'<td class="number">{_value(row.get(value))}</td><td>{_words(row.get(reason))}</td>'
            for value, reason in (("tau", "tau_reason"), ("eps_low", "eps_reason"))
        ),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _dot(outcome: Any) -> str:
    value = finite(outcome)
    if value is None:
        return "·"
    return "●" if value >= 1.0 else "○" if value <= 0.0 else "◐"


def samples(runs: Sequence[Run]) -> str:
    """Responses of each run, or how to get some."""
    out = ""
    for i, run in enumerate(runs):
        head = _head(runs, i)
        shown = "".join(_sample(sample) for sample in run.samples)
        out += head + (
            f'<div class="samples">{shown}</div>'
            if shown
            else '<p class="none">No dumps in the run folder. To have some, add to the training command:</p>'
            "<pre>trainer.rollout_data_dir=RUN/rollouts\ntrainer.validation_data_dir=RUN/validation</pre>"
        )
    return out


def _sample(sample: Sample) -> str:
    score = "no score" if sample.score is None else f"score {number(sample.score)}"
    truth = f'<p class="truth">reference: <bdi>{escape(sample.truth)}</bdi></p>' if sample.truth else ""
    cut = f'<p class="cut">{sample.cut:,} more characters</p>' if sample.cut else ""
    return (
        f'<article class="sample"><h4>{escape(sample.source)}, step {sample.step} <b>{score}</b></h4>'
        f'<pre class="prompt" dir="auto">{escape(sample.prompt)}</pre>'
        f'<pre class="response" dir="auto">{escape(sample.response)}</pre>{cut}{truth}</article>'
    )


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


def files(runs: Sequence[Run]) -> str:
    """The files of each run: read, unreadable and missing."""
    out = ""
    for i, run in enumerate(runs):
        read = "".join(f"<li>{_file(note)}</li>" for note in run.files)
        wrong = "".join(f'<li class="look">{escape(problem)}</li>' for problem in run.problems)
        missing = "".join(f"<li>missing: {escape(words)}</li>" for words in _missing(run))
        head = _head(runs, i)
        out += f'{head}<ul class="files">{read}{wrong}{missing}</ul>'
    return out


def _file(note: Any) -> str:
    words = f"{escape(note.name)}: {note.lines:,} lines"
    if note.error:
        words += f', <b class="look">not readable: {escape(note.error)}</b>'
    if note.bad:
        where = ", ".join(map(str, note.bad[:5])) + (", …" if len(note.bad) > 5 else "")
        words += f', <b class="look">{len(note.bad):,} not usable</b> (line {where})'
    return words


def _missing(run: Run) -> list[str]:
    """The parts that the page cannot show for this run, and why."""
    gone = []
    if not run.files:
        gone.append("metrics*.jsonl (trainer.logger must contain file)")
    elif not run.training:
        gone.append("training steps")
    if not run.keys(measures.ACCURACY):
        gone.append("validation (trainer.test_freq)")
    if run.training and not run.adaptive:
        gone.append("metrics of the controllers (a baseline has none)")
    if run.decisions is None:
        gone.append("decisions of each prompt")
    if run.settings is None:
        gone.append("a checkpoint with settings, so default targets and bounds are assumed")
    if not run.samples:
        gone.append("response dumps")
    if run.superseded:
        gone.append(f"{run.superseded} steps that an earlier attempt logged and the resumed one has not reached again")
    return gone


def _head(runs: Sequence[Run], index: int) -> str:
    return f"<h3>{badge(runs, index)}</h3>" if len(runs) > 1 else ""


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    return value if isinstance(value, list) else []


def _words(reason: Any) -> str:
    return escape(str(reason or "").replace("_", " "))


def _value(value: Any) -> str:
    known = finite(value)
    return "–" if known is None else f"{known:.3f}"
