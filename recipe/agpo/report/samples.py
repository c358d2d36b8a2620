# SPDX-License-Identifier: Apache-2.0
"""Sample responses from verl's dumps (``trainer.rollout_data_dir``, ``trainer.validation_data_dir``).

verl writes ``<folder>/<step>.jsonl`` with one response a line. Folders directly inside the run folder and its
checkpoint folder are found.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.agpo.report.jsonl import FileNote, finite, read_lines
from recipe.agpo.report.text import number

EACH = 3  # best and worst responses shown of each dump
LONGEST = 1500  # characters shown of a text


@dataclass(frozen=True)
class Sample:
    """One response. ``prompt`` and ``response`` are cut to ``LONGEST`` characters; ``cut`` counts what is left out."""

    source: str
    step: int
    score: float | None
    prompt: str
    response: str
    truth: str
    cut: int

    @property
    def words(self) -> str:
        """The score for a person."""
        return "no score" if self.score is None else f"score {number(self.score)}"


def read_samples(folders: list[Path], notes: list[FileNote]) -> tuple[list[Sample], dict[str, str]]:
    """Responses of the newest step of each dump inside ``folders``, and the prompts there by their id.

    Of each dump the best and the worst responses are taken; ties go to the earlier line. The id of a prompt is verl's
    ``uid`` without the numbers of the response.
    """
    samples: list[Sample] = []
    prompts: dict[str, str] = {}
    for dump in sorted(child for folder in folders for child in folder.iterdir() if child.is_dir()):
        files = [file for file in dump.glob("*.jsonl") if file.stem.isdecimal()]
        if not files:
            continue
        newest = max(files, key=lambda file: int(file.stem))
        note = FileNote(f"{dump.name}/{newest.name}")
        notes.append(note)
        rows = [row for _, row in read_lines(newest, note)]
        samples += _chosen([_sample(row, dump.name, int(newest.stem)) for row in rows])
        prompts |= {_text(row.get("uid")).rsplit("_", 2)[0]: _text(row.get("input"))[-LONGEST:] for row in rows}
    return samples, prompts


def _chosen(samples: list[Sample]) -> list[Sample]:
    """A few with the highest score, then a few with the lowest."""
    scored = sorted((s for s in samples if s.score is not None), key=lambda s: -(s.score or 0.0))
    if len(scored) <= 2 * EACH:
        return scored or samples[: 2 * EACH]
    return scored[:EACH] + scored[-EACH:]


def _sample(row: dict[str, Any], source: str, step: int) -> Sample:
    prompt, response, truth = (_text(row.get(key)) for key in ("input", "output", "gts"))
    # Prompts differ at their end; errors of a response are mostly at its beginning.
    return Sample(
        source,
        step,
        finite(row.get("score")),
        prompt[-LONGEST:],
        response[:LONGEST],
        truth[:LONGEST],
        max(0, len(response) - LONGEST),
    )


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else str(value)
